"use strict";
// The page's own behaviour: maps of attention over a picture, the slider, copying, and the address of the page.
(() => {
  const card = (element) => element.closest(".card");

  function show(button) {
    const map = card(button)?.querySelector(".map");
    if (!map) return;
    map.src = button.dataset.map;
    map.hidden = false;
    button.classList.add("lit");
  }

  function hide(button) {
    const within = card(button);
    const map = within?.querySelector(".map");
    if (!map) return;
    button.classList.remove("lit");
    const pinned = within.querySelector("button.sentence[aria-pressed=true]");
    if (pinned) map.src = pinned.dataset.map;
    else map.hidden = true;
  }

  const sentence = (event) => event.target.closest?.("button.sentence[data-map]");
  document.addEventListener("pointerover", (event) => sentence(event) && show(sentence(event)));
  document.addEventListener("pointerout", (event) => sentence(event) && hide(sentence(event)));
  document.addEventListener("focusin", (event) => sentence(event) && show(sentence(event)));
  document.addEventListener("focusout", (event) => sentence(event) && hide(sentence(event)));
  document.addEventListener("click", (event) => {
    const button = sentence(event);
    if (button) {
      const pressed = button.getAttribute("aria-pressed") === "true";
      card(button).querySelectorAll("button.sentence").forEach((b) => b.setAttribute("aria-pressed", "false"));
      button.setAttribute("aria-pressed", String(!pressed));
      if (pressed) hide(button); else show(button);
    }
    const copy = event.target.closest?.("button.copy");
    if (copy) {
      const said = copy.parentElement.querySelector("[role=status]");
      navigator.clipboard.writeText(copy.parentElement.querySelector("pre").textContent).then(
        () => { said.textContent = "copied"; },
        () => { said.textContent = "the browser does not allow it: select the text"; },
      );
    }
  });
  document.addEventListener("input", (event) => {
    const slider = event.target.closest?.(".slider");
    if (slider) slider.style.setProperty("--at", `${event.target.value}%`);
  });

  const NAMES = {
    draw: ["prompt", "model", "lora", "tokens", "strategy", "seed", "steps", "guidance", "num", "best", "compare"],
  };
  window.longalign = {
    // Puts the state of a tab into the address, so that it can be kept and sent.
    remember(tab, values) {
      const query = new URLSearchParams({ tab });
      NAMES[tab].forEach((name, i) => {
        const value = Array.isArray(values[i]) ? values[i].join("\x1f") : values[i];
        if (value !== null && value !== undefined && value !== "") query.set(name, value);
      });
      history.replaceState(null, "", `?${query}`);
    },
  };
})();
