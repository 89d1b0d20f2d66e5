"""The rules about the source that no linter knows, and the import contracts of pyproject.toml."""

import ast
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "online_models", "retrain_workers", "serving_api")
FILE_LINES_CAP = 500
FUNCTION_CODE_LINES_CAP = 50
NAMES_THAT_SAY_NOTHING = {"common", "helpers", "manager", "misc", "utils"}
NOT_CODE = {
    tokenize.COMMENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER,
    tokenize.INDENT, tokenize.NEWLINE, tokenize.NL,
}  # fmt: skip

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_lines(path: Path) -> set[int]:
    """The numbers of the lines that hold code: neither blank nor comment alone."""
    with tokenize.open(path) as source:
        tokens = [t for t in tokenize.generate_tokens(source.readline) if t.type not in NOT_CODE]
    return {line for t in tokens for line in range(t.start[0], t.end[0] + 1)}


def docstring_lines(function: Function) -> set[int]:
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is None or first.end_lineno is None:
        return set()
    return set(range(first.lineno, first.end_lineno + 1))


def function_sizes(path: Path) -> Iterator[tuple[str, int]]:
    """Each function's name and its code lines, those of the functions inside it too."""
    code = code_lines(path)
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function)]
    code -= {line for function in functions for line in docstring_lines(function)}
    for function in functions:
        assert function.end_lineno is not None
        yield function.name, len(code & set(range(function.lineno, function.end_lineno + 1)))


def reads_environment(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv" | "getenvb"):
            return True
        case ast.ImportFrom(module="os", names=names):
            return any(alias.name in {"environ", "environb", "getenv", "getenvb"} for alias in names)
        case _:
            return False


def imports_mock(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(alias.name.split(".")[-1] == "mock" for alias in names)
        case ast.ImportFrom(module=str(module), names=names):
            return module.split(".")[-1] == "mock" or any(alias.name == "mock" for alias in names)
        case _:
            return False


SMALL_MODULE = '''
def outer():
    """Says
    two lines."""

    # why
    text = """a
    b"""
    return text
'''


def test_a_function_is_measured_without_docstring_comments_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    path.write_text(SMALL_MODULE)
    assert list(function_sizes(path)) == [("outer", 4)]


def test_every_reading_of_the_environment_is_seen() -> None:
    for source in (
        "os.environ['A']",
        "os.getenv('A')",
        "from os import environ",
        "from os import getenv as g",
    ):
        assert any(map(reads_environment, ast.walk(ast.parse(source)))), source
    assert not any(map(reads_environment, ast.walk(ast.parse("os.getpid()"))))


def test_every_import_of_mock_is_seen() -> None:
    for source in (
        "import unittest.mock",
        "from unittest import mock",
        "from unittest.mock import Mock",
        "import mock",
    ):
        assert any(map(imports_mock, ast.walk(ast.parse(source)))), source
    assert not any(map(imports_mock, ast.walk(ast.parse("import unittest"))))


def test_import_contracts_hold() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_flows_and_serving_start_without_torch() -> None:
    modules_of = "flows.app, flows.__main__, serving_api.app, serving_api.__main__, online_models.learner"
    program = (
        f"import sys, {modules_of}; print([m for m in ('torch', 'transformers', 'accelerate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_longer_than_the_cap() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in modules(*PACKAGES, "scripts")}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_CAP} == {}


def test_no_function_is_longer_than_the_cap() -> None:
    sizes = {
        f"{name_of(path)}:{function}": lines
        for path in modules(*PACKAGES, "scripts")
        for function, lines in function_sizes(path)
    }
    assert {name: lines for name, lines in sizes.items() if lines > FUNCTION_CODE_LINES_CAP} == {}


def test_a_module_name_says_what_is_in_it() -> None:
    vague = [
        name_of(path)
        for path in modules(*PACKAGES, "scripts", "benchmarks", "tests")
        if {path.stem, path.parent.name} & NAMES_THAT_SAY_NOTHING
    ]
    assert vague == []


def test_only_settings_reads_the_environment() -> None:
    readers = [
        f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        for path in modules(*PACKAGES)
        if path.name != "settings.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if reads_environment(node)
    ]
    assert readers == []


def test_nothing_is_mocked() -> None:
    mockers = [
        name_of(path)
        for path in modules(*PACKAGES, "scripts", "benchmarks", "tests")
        if any(map(imports_mock, ast.walk(ast.parse(path.read_text()))))
    ]
    assert mockers == []
