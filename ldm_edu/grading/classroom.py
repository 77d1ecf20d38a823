"""nbgrader's ``autograde`` with this course's grader inside, in nbgrader_config.py:

    from ldm_edu.grading.classroom import OUTSIDE
    c.Autograde.autograde_preprocessors = OUTSIDE

nbgrader itself runs the check cells in the learner's kernel, where the learner's code can change what they do, end the
kernel, or wait for ever. Here each notebook is graded from outside, and its check cells get the verdicts.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    IgnorePattern,
    LimitOutput,
    NbGraderPreprocessor,
    SaveAutoGrades,
)
from traitlets import Enum

from ldm_edu.grading.interactive import panel
from ldm_edu.grading.notebook import grade
from ldm_edu.grading.sandbox import isolates, unprotected
from ldm_edu.grading.verdict import Verdict


class GradeOutside(NbGraderPreprocessor):
    """Takes the place of nbgrader's ``Execute``: grades a notebook and writes its panels below the check cells."""

    isolate = Enum(
        ("auto", "require", "off"), "auto", help="Run notebooks in a sandbox, as `ldm-edu grade --isolate`."
    ).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """The notebook with an output in every check cell; nbgrader gives no points where it is an error.

        Raises
        ------
        IsolationError
            if isolation is required and this computer has none.
        """
        choice: Any = self.isolate  # one of the three, as the trait has checked
        isolated = isolates(choice)
        if not isolated:
            self.log.warning(unprotected(choice))
        with TemporaryDirectory(prefix="ldm-edu-class-") as folder:
            path = Path(folder) / "notebook.ipynb"
            nbformat.write(nb, path)
            graded = grade(path, isolated=isolated)
        for remark in graded.remarks:
            self.log.warning(remark)
        verdicts = {verdict.item.grade_id: verdict for verdict in graded.verdicts}
        for cell in nb.cells:
            marks = cell.metadata.get("nbgrader", {})
            if marks.get("grade") and cell.cell_type == "code":
                cell.outputs = list(outputs(verdicts.get(marks["grade_id"].removesuffix("-check"))))
        return nb, resources


def outputs(verdict: Verdict | None) -> Any:
    """What `check` would have shown, as a notebook keeps it."""
    if verdict is not None:
        shown = panel(verdict)
        data = {"text/plain": repr(shown), "text/html": shown._repr_html_()}
        yield nbformat.v4.new_output("display_data", data=data)
    if verdict is None or not verdict.passed:
        words = f"{verdict.item.id}: not right yet, see above" if verdict else "this item could not be graded"
        yield nbformat.v4.new_output("error", ename="CheckFailed", evalue=words, traceback=[words])


OUTSIDE = [
    GradeOutside,
    IgnorePattern,
    ClearMetadataPreprocessor,
    LimitOutput,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]
