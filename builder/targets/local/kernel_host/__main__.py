"""The program's entry point: loads the package without its folder on the search path."""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_NAME = "_sandbox_kernel_host"


def main() -> None:
    """Run a kernel, a zygote or a starter."""
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
    spec = spec_from_file_location(
        _NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec
    assert spec.loader
    package = module_from_spec(spec)
    sys.modules[_NAME] = package
    spec.loader.exec_module(package)
    import_module(f"{_NAME}.output").open_text_streams()
    task, *arguments = sys.argv[1:]
    if task == "kernel":
        kernel = import_module(f"{_NAME}.python")
        kernel.prepare()
        kernel.run_kernel(*arguments)
    else:
        zygote = import_module(f"{_NAME}.zygote")
        folder_of_zygote, guard, user, idle, *modules = arguments
        if task == "starter":
            zygote.run_starter(folder_of_zygote, guard, user)
        else:
            seconds = float(idle) if idle else None
            zygote.run_zygote(folder_of_zygote, guard, user, seconds, modules)


if __name__ == "__main__":
    main()
