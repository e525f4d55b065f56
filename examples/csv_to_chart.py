"""A CSV in, a chart and a CSV out: what a data analyst's assistant does with its user's file.

The file is copied into the sandbox, the code that a model wrote works on it there, and the files
that it creates are copied into a folder of yours. Only what people read is printed. Prints:

    sandbox: 1000 rows of 20 sensors
    report.csv  text/csv   20 lines
    report.png  image/png  a picture
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from builder.runtime import CodeExecutionPrimitive

# Stands for what a model answers.
GENERATED = """
import matplotlib.pyplot as plt
import pandas

data = pandas.read_csv("measured.csv")
print(f"{len(data)} rows of {data['sensor'].nunique()} sensors")
report = data.groupby("sensor")["value"].agg(["mean", "max"])
report.to_csv("report.csv", header=False)
report.plot.bar(figsize=(8, 3))
plt.savefig("report.png")
plt.close()
"""


async def analyse(executor: CodeExecutionPrimitive, data: Path, folder: Path) -> list[Path]:
    """Run the code on a local file; the files that it creates are copied into `folder`."""
    result = await executor.execute({"code": GENERATED, "files": {"measured.csv": data}})
    if result["error"]:
        raise RuntimeError(result["error"])
    print("sandbox:", result["output"].strip())
    copies = []
    for file in result["files"]:
        copies.append(folder / file.name)
        await executor.files.download(file.path, copies[-1])
        is_text = file.mime_type.startswith("text/")
        shown = f"{len(copies[-1].read_text().splitlines())} lines" if is_text else "a picture"
        print(f"{file.path}  {file.mime_type:<9}  {shown}")
    return copies


async def main() -> None:
    """Write a user's file of a thousand rows, and analyse it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        rows = [f"{number % 20},{number * 37 % 101}" for number in range(1000)]
        (folder / "upload.csv").write_text("\n".join(["sensor,value", *rows]))
        async with CodeExecutionPrimitive(template_id="tta-data-minimal") as executor:
            await analyse(executor, folder / "upload.csv", folder)


asyncio.run(main())
