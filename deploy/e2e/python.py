"""Prints the files that a0 needs, each in a line, to make an image of them.

Run by the Python of make sdk. The files are those of Python, of its library and packages, and their
shared libraries, and the authorities that the SDK trusts. Large packages that no task of the tests
imports are left out.
"""

import os
import subprocess
import sys
import sysconfig

LARGE = {"jedi", "mypy", "mypyc", "numpy", "numpy.libs", "pandas", "pip", "pyarrow", "ruff", "setuptools"}
UNUSED = {"dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tkinter"}

paths = sysconfig.get_paths()
library = {paths["stdlib"], paths["platstdlib"]}
packages = {paths["purelib"], paths["platlib"]}
programs = [os.path.join(sys.prefix, "bin", name) for name in ("a0", "python", "python3")]
found = {*programs, os.path.join(sys.prefix, "pyvenv.cfg"), "/etc/ssl/certs/ca-certificates.crt"}
for root in library | packages:
    for folder, names, files in os.walk(root):
        unused = LARGE if root in packages else UNUSED
        names[:] = [n for n in names if n not in unused and n != "__pycache__" and not n.startswith("config-")]
        found.update(os.path.join(folder, f) for f in files if "__mypyc" not in f and not f.endswith(".a"))
binaries = [f for f in found if f.endswith(".so")] + [sys.executable]
for line in subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout.splitlines():
    found.update(word for word in line.split() if word.startswith("/") and not word.endswith(":"))
print(*sorted(found), sep="\n")
