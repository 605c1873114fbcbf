"""`longalign studio`: the tool in a browser, on this machine, over the functions that the commands call.

| file | what is in it |
|---|---|
| `settings.py` | what is offered, limits of a job |
| `stacks.py` | names of the page → models with LoRAs and soft tokens; loaded ones are kept |
| `cut.py` | a prompt cut into sentences, with what the plain encoding loses |
| `draw.py`, `check.py`, `edit.py`, `browse.py` | the work of a tab: plain arguments in, plain data out |
| `folders.py` | where results are: in the folder of runs, whole or not at all |
| `markup.py`, `snippets.py` | that data as HTML; as a command and as Python |
| `page.py`, `tabs/`, `theme.py`, `static/` | the page (Gradio) |
| `api.py` | endpoints with types |
| `guard.py`, `files.py`, `server.py` | who may ask, which files are given out, the server |

The page needs the extra ``ui``; all but the last three rows work without it.
"""
