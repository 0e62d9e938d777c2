# Sourced: an environment that sees .venv's packages, and has others before them.

BIN=$PWD/.venv/bin

# Make the environment in the directory $1. pip removes nothing outside of it.
environment_beside() {
  "$BIN/python" -m venv --without-pip "$1"
  local path='import sysconfig; print(sysconfig.get_path("purelib"))'
  local packages new_packages
  packages=$("$BIN/python" -c "$path")
  new_packages=$("$1/bin/python" -c "$path")
  # Its .pth files, which an editable installation needs, are read as well.
  echo "import site; site.addsitedir('$packages')" >"$new_packages/beside.pth"
}
