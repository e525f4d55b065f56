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
    elif task == "starter":
        import_module(f"{_NAME}.zygote").run_starter(*arguments)
    else:
        *places, user = arguments[:3]
        import_module(f"{_NAME}.zygote").run_zygote(*places, user, arguments[3:])


if __name__ == "__main__":
    main()
