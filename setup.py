"""Builds the compiled modules: every `.pyx` below `meshproxy/`. Metadata is in setup.cfg.

`MESHPROXY_BUILD=sanitize` builds with bound checks, AddressSanitizer and UndefinedBehaviorSanitizer; `MESHPROXY_MODULES` names the
`.pyx` files to build when not all are wanted (`none`: not any; an editable install that is followed by `scripts/build`).
"""

import os
import pathlib
import shutil
import subprocess
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SANITIZE = os.environ.get("MESHPROXY_BUILD") == "sanitize"
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": True,                 # of lists, tuples and bytes: a C array has none either way, and the hot path indexes few of these
    "wraparound": True,
    "cdivision": not SANITIZE,
    "initializedcheck": False,
    "embedsignature": True,
    "freethreading_compatible": False,
}
FLAGS = ["-fsanitize=address,undefined", "--param=asan-stack=0", "-g", "-O1"] if SANITIZE else ["-O2", "-g1"]

LIBRARIES = {"meshproxy/workers/tls_": ["ssl", "crypto"], "meshproxy/codecs/http2": ["nghttp2"]}
"""Of the modules whose path begins so."""
HEADERS = {"openssl/ssl.h": "libssl-dev", "nghttp2/nghttp2.h": "libnghttp2-dev"}
"""And the Debian packages that have them."""


def sources() -> list[pathlib.Path]:
    wanted = os.environ.get("MESHPROXY_MODULES", "").split()
    if wanted == ["none"]:
        return []
    return [pathlib.Path(name) for name in wanted] or sorted(pathlib.Path("meshproxy").rglob("*.pyx"))


def extension(pyx: pathlib.Path) -> Extension:
    import greenlet

    return Extension(
        ".".join(pyx.with_suffix("").parts),
        [str(pyx)],
        include_dirs=[str(pyx.parent), "meshproxy/scoreboard", str(pathlib.Path(greenlet.__file__).parents[1])],
        depends=[str(header) for header in pathlib.Path("meshproxy").rglob("*.h")],
        extra_compile_args=[*FLAGS, "-Wno-unreachable-code", "-Wno-discarded-qualifiers", "-Wno-sign-compare", "-fno-strict-aliasing"],
        extra_link_args=FLAGS[:1] if SANITIZE else [],
        define_macros=[("MESHPROXY_SANITIZE", "1")] if SANITIZE else [],
        libraries=[name for start, names in LIBRARIES.items() if str(pyx).startswith(start) for name in names],
    )


class BuildExtensions(build_ext):
    """Says which Debian package to install before a compiler says something worse."""

    def finalize_options(self) -> None:
        from Cython.Build import cythonize

        self.distribution.ext_modules = cythonize(
            self.distribution.ext_modules, compiler_directives=DIRECTIVES, nthreads=os.cpu_count() or 1, quiet=True,
        )
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "gcc").split()[0]
        if not shutil.which(compiler):
            raise SystemExit(f"meshproxy needs a C compiler and {compiler!r} is not there: apt-get install gcc libc6-dev")
        if not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists():
            raise SystemExit("meshproxy needs Python's headers: apt-get install python3-dev")
        for header, package in HEADERS.items():
            if subprocess.run([compiler, "-E", "-include", header, "-x", "c", os.devnull], capture_output=True).returncode:
                raise SystemExit(f"meshproxy needs {header}: apt-get install {package}")
        super().run()


setup(ext_modules=[extension(pyx) for pyx in sources()], cmdclass={"build_ext": BuildExtensions})
