"""Studies: the measurements behind BENCHMARKS.md, each a script run from the clone's root.

`python -m studies.NAME --help` lists a study's options. Each study prints its tables, and writes its result as JSON
where `--output` names a file. `python -m studies.render` writes the documentation's tables from `studies/results/`.
"""
