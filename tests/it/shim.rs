//! A library that is loaded into the program before the system's own, so that real calls fail or answer otherwise.

use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// Where it is, as `LD_PRELOAD` wants it. `shim.c` says what it does, and at which words of the environment.
pub(crate) fn shim() -> &'static str {
    static BUILT: OnceLock<(TempDir, String)> = OnceLock::new();
    let build = || {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let library = folder.path().join("shim.so").display().to_string();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/shim.c");
        let flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", &library, source];
        assert!(Command::new("cc").args(flags).status().unwrap().success());
        (folder, library)
    };
    &BUILT.get_or_init(build).1
}
