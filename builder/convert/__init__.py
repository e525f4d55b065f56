"""Turn a file that a project has already into the text of a spec.

Pure, apart from the files that the source names: text in, text out. What a spec cannot say is a
comment in it, with its line and the reason; a secret is a comment without its text.
"""

from builder.convert.convert import convert
from builder.convert.draft import Draft
from builder.convert.folder import Folder
from builder.convert.values import Conversion, FileCopy, Files, Line, Note

__all__ = ["Conversion", "Draft", "FileCopy", "Files", "Folder", "Line", "Note", "convert"]
