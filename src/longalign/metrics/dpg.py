"""DPG-Bench: questions about a picture, in a tree, answered by a vision-language model (Hu et al. 2024, ELLA).

A question whose parent is answered "no" scores 0. The score of a picture is the mean over its questions, and over the
pictures of a 2 × 2 grid.

``rules="fixed"`` does what the paper says. ``rules="official"`` repeats what the published scorer does:

- It skips the first row of the table of questions. So the first item lacks its root, and its picture is dropped.
- It goes through the questions in the table's order and once, so a child that stands before its parent is not zeroed by
  its grandparent.
- It takes categories from the last picture of a grid, and does not zero questions for them.
- A picture without questions is dropped, where ``fixed`` says what is wrong.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from longalign.errors import LongalignError
from longalign.metrics.metric import MetricColumn, Number, PictureBatch, Tools
from longalign.metrics.vlm import VlmMetric, VlmOptions, filled

if TYPE_CHECKING:
    from PIL.Image import Image

    from longalign.metrics.prompt_bootstrap import PromptBootstrap

CATEGORIES = ("global", "entity", "attribute", "relation", "other")
RULES = ("fixed", "official")
TEMPLATE = "{question} Please answer yes or no."
_COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
_YES, _NO = "Yes", "No"


@dataclass(frozen=True)
class Question:
    """A question of an item.

    Attributes:
        id: its ``proposition_id``.
        parents: ids of the questions that must be answered "yes" before it counts; empty at a root.
        category: such as ``attribute - color``.
        text: the question.
    """

    id: int
    parents: tuple[int, ...]
    category: str
    text: str

    @property
    def broad(self) -> str:
        """The first part of the category, such as ``attribute``."""
        return self.category.partition("-")[0].strip()


class Questions:
    """DPG-Bench's table of questions.

    Args:
        path: the CSV file ``dpg_bench.csv``.
        rules: one of `RULES`.

    Attributes:
        of_item: item id → its questions, in the order of the table.
        item_of: prompt → item id.

    Raises:
        LongalignError: the file cannot be read, lacks a column, or holds a row that is no question. By the fixed rules
            also: a parent that the item does not have, or parents in a circle.
    """

    def __init__(self, path: str | os.PathLike[str], rules: str = "fixed") -> None:
        self.item_of: dict[str, str] = {}
        tables: dict[str, dict[int, Question]] = {}
        last = None
        for number, row in enumerate(_rows(path)):
            item = row["item_id"].strip()
            self.item_of[row["text"].strip()] = item
            if rules == "official" and number == 0:
                continue
            question = _question(row, f"{path}: row {number + 2}")
            # The published scorer keeps one question of an id, and begins an item anew where its rows are not together.
            if rules == "official" and item != last:
                tables[item] = {}
            last = item
            table = tables.setdefault(item, {})
            table[question.id if rules == "official" else len(table)] = question
        self.of_item = {item: list(table.values()) for item, table in tables.items()}
        if rules == "fixed":
            for item, questions in self.of_item.items():
                _check_tree(questions, f"{path}: item {item}")


def _rows(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise LongalignError(
                    f"dpg: {path}: is no table of DPG-Bench's questions: it has no column {', '.join(missing)}"
                )
            return [{key: row[key] or "" for key in _COLUMNS} for row in reader]
    except OSError as error:
        raise LongalignError(f"dpg: {path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise LongalignError(f"dpg: {path}: is no CSV: {error}") from None


def _question(row: Mapping[str, str], where: str) -> Question:
    try:
        parents = tuple(int(part) for part in row["dependency"].split(","))
        # A table that pandas wrote has 3.0 for 3.
        number = int(float(row["proposition_id"]))
    except (ValueError, OverflowError):
        raise LongalignError(
            f"dpg: {where}: proposition_id {row['proposition_id']!r} and dependency {row['dependency']!r} must be "
            "whole numbers (0: no parent)"
        ) from None
    category = row["tuple"].partition("(")[0].strip()
    return Question(
        number, tuple(p for p in parents if p != 0), category, row["question_natural_language"].strip()
    )


def _check_tree(questions: Sequence[Question], where: str) -> None:
    parents: dict[int, set[int]] = {}
    for question in questions:
        parents.setdefault(question.id, set()).update(question.parents)
    for question in questions:
        for parent in question.parents:
            if parent not in parents:
                raise LongalignError(
                    f"dpg: {where}: question {question.id} depends on {parent}, which the item does not have"
                )
        above = set(question.parents)
        while more := {p for a in above for p in parents[a]} - above:
            above |= more
        if question.id in above:
            raise LongalignError(f"dpg: {where}: question {question.id} depends on itself")


# s_q = a_q · Π_{p ∈ parents(q)} s_p
def scores_of(questions: Sequence[Question], answers: Sequence[bool], rules: str = "fixed") -> list[float]:
    """The score of each question of one picture, 0 or 1, zeroed under parents that scored 0.

    Args:
        questions: of the item.
        answers: whether the answer to each is "yes".
        rules: ``fixed``: parents first. ``official``: in the order of the table.

    Raises:
        KeyError: by the official rules, a parent that the item does not have.
    """
    if rules == "official":
        scores = {q.id: float(a) for q, a in zip(questions, answers, strict=True)}
        for question in questions:
            if any(scores[parent] == 0 for parent in question.parents):
                scores[question.id] = 0.0
        return [scores[q.id] for q in questions]
    rows: dict[int, list[int]] = {}
    for row, question in enumerate(questions):
        rows.setdefault(question.id, []).append(row)
    known: dict[int, float] = {}

    def score(row: int) -> float:
        if row not in known:
            parents = (r for parent in questions[row].parents for r in rows[parent])
            known[row] = float(answers[row] and all(score(r) == 1 for r in parents))
        return known[row]

    return [score(row) for row in range(len(questions))]


def grid_of(image: Image, pictures: int) -> list[Image]:
    """The pictures in one file: the file's picture itself, or the quarters of a grid, row by row.

    Args:
        image: the file's picture.
        pictures: 1, or 4 for a 2 × 2 grid.
    """
    if pictures == 1:
        return [image]
    w, h = image.width // 2, image.height // 2
    return [image.crop((x, y, x + w, y + h)) for y in (0, h) for x in (0, w)]


@dataclass(frozen=True)
class DpgOptions(VlmOptions):
    """Options of `Dpg`.

    Attributes:
        model: folder or hub name of an image-text-to-text model of transformers.
        batch_size: questions that the model reads at once.
        questions: DPG-Bench's table of questions, a CSV file.
        rules: ``fixed`` or ``official``.
        pictures: in one file: 1, or 4 in a 2 × 2 grid.
        template: what the model is asked; ``{question}`` is the question.
    """

    questions: str | None = None
    rules: str = "fixed"
    pictures: int = 1
    template: str = TEMPLATE


class Dpg(VlmMetric):
    """DPG-Bench's score, and its shares of right answers by category, both × 100.

    The published scorer asks mPLUG, which writes "yes" or "no". Here the answer is "yes" where it is more probable than
    "no". A picture's item is the ``item_id`` of its prompt's record, or the item that has this prompt.

    Args:
        tools: what the evaluation has loaded.
        options: a `DpgOptions`.

    Raises:
        LongalignError: no model or no table is given; the table is damaged; unknown rules or an impossible grid.
    """

    name = "dpg"
    columns = (
        MetricColumn("dpg", "DPG-Bench", ".2f", "higher"),
        *(MetricColumn(f"dpg_{c}", f"DPG {c}", ".1f", "higher") for c in CATEGORIES),
    )
    Options = DpgOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        options = options or DpgOptions()
        if options.questions is None:
            raise LongalignError(
                "dpg: no questions are given: download dpg_bench.csv from the repository of ELLA and give "
                "--set dpg.questions=FILE"
            )
        if options.rules not in RULES:
            raise LongalignError(f"dpg: rules {options.rules!r} are unknown; one of {', '.join(RULES)}")
        if options.pictures not in (1, 4):
            raise LongalignError(f"dpg: {options.pictures} pictures in a file make no grid: choose 1 or 4")
        filled(options.template, self.name, question="")
        self.questions = Questions(options.questions, options.rules)
        super().__init__(tools, options)

    def measure(self, batch: PictureBatch) -> Sequence[Mapping[str, Any]]:
        """One value a picture.

        It has the score, for each category how many questions were ``…_right`` and ``…_asked``, and as details the
        ``item`` and the ``answers`` of each picture of the grid. By the official rules a picture that the published
        scorer drops has ``dpg`` NaN and the ``reason``.

        Args:
            batch: decoded pictures with their prompts and records.

        Raises:
            LongalignError: by the fixed rules, a prompt that is no item of the table.
        """
        items = [self._item(record, text) for record, text in zip(batch.records, batch.prompts, strict=True)]
        crops: list[Image] = []
        texts: list[str] = []
        for image, item in zip(batch.images, items, strict=True):
            asked = [filled(self.options.template, self.name, question=q.text) for q in self._of(item)]
            for crop in grid_of(image, self.options.pictures):
                crops += [crop] * len(asked)
                texts += asked
        p = self.vlm.probabilities(crops, texts, (_YES, _NO), self.options.batch_size)  # (N, 2)
        yes = iter((p[:, 0] > p[:, 1]).tolist())
        values = []
        for item in items:
            answers = [[next(yes) for _ in self._of(item)] for _ in range(self.options.pictures)]
            values.append(
                {
                    "item": item,
                    "answers": answers,
                    **picture_value(self._of(item), answers, self.options.rules),
                }
            )
        return values

    def _of(self, item: str) -> Sequence[Question]:
        return self.questions.of_item.get(item, ())

    def _item(self, record: Mapping[str, Any], prompt: str) -> str:
        item = str(record.get("item_id", self.questions.item_of.get(prompt.strip(), "")))
        if item not in self.questions.of_item and self.options.rules == "fixed":
            what = f"item_id {item!r}" if item else f"the prompt {prompt[:60]!r}"
            raise LongalignError(f"dpg: {self.options.questions} has no questions for {what}")
        return item

    def cells(self, numbers: Mapping[str, np.ndarray], bootstrap: PromptBootstrap) -> dict[str, Number]:
        """Means over pictures; of a category, the share of its right answers in all pictures.

        Args:
            numbers: of the values of `measure`.
            bootstrap: draws of prompts.
        """
        found = {"dpg": bootstrap.mean(numbers["dpg"], self.columns[0].format)}
        none = np.zeros(len(bootstrap.owner))
        for column in self.columns[1:]:
            right, asked = (numbers.get(f"{column.key}_{what}", none) for what in ("right", "asked"))
            found[column.key] = bootstrap.ratio(right, asked, column.format, 100)
        return found

    @property
    def what(self) -> str:
        """Names the model, the table, the rules and the template."""
        return (
            f"{super().what}, questions of {Path(self.options.questions).name}, {self.options.rules} rules, template "
            f"{self.options.template!r}"
        )


def picture_value(
    questions: Sequence[Question], answers: Sequence[Sequence[bool]], rules: str = "fixed"
) -> dict[str, Any]:
    """The numbers of one file.

    Args:
        questions: of its item; may be empty by the official rules.
        answers: of each picture in the file, whether the answer to each question is "yes".
        rules: one of `RULES`.

    Returns:
        ``dpg`` (× 100), ``dpg_CATEGORY_right`` and ``dpg_CATEGORY_asked``, and under ``categories`` both numbers of
        each fine category.
    """
    try:
        scores = [scores_of(questions, of_picture, rules) for of_picture in answers]
    except KeyError as error:
        return {"dpg": math.nan, "reason": f"question {error} is missing, on which another one depends"}
    if not questions:
        return {"dpg": math.nan, "reason": "no questions"}
    value: dict[str, Any] = {"dpg": 100 * float(np.mean(scores))}
    counted = scores if rules == "fixed" else [[float(a) for a in answers[-1]]]
    fine: dict[str, list[int]] = {}
    for category in CATEGORIES:
        value |= {f"dpg_{category}_right": 0, f"dpg_{category}_asked": 0}
    for of_picture in counted:
        for question, score in zip(questions, of_picture, strict=True):
            pair = fine.setdefault(question.category, [0, 0])
            pair[0] += int(score)
            pair[1] += 1
            if question.broad in CATEGORIES:
                value[f"dpg_{question.broad}_right"] += int(score)
                value[f"dpg_{question.broad}_asked"] += 1
    return value | {"categories": fine}
