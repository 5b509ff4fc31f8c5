//! Counts what a program syncs to the disk, or leaves it out, by standing before the C library.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Result;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static long syncs;
static int pass(long call, int file) {
  __atomic_add_fetch(&syncs, 1, __ATOMIC_RELAXED);
  return getenv("SYNCS_LEFT_OUT") ? 0 : (int)syscall(call, file);
}
int fsync(int file) { return pass(SYS_fsync, file); }
int fdatasync(int file) { return pass(SYS_fdatasync, file); }
__attribute__((destructor)) static void tell(void) {
  FILE *out = fopen(getenv("SYNCS_TOLD_TO"), "w");
  if (out) { fprintf(out, "%ld", syncs); fclose(out); }
}
"#;

/// A library that is loaded before others.
pub(crate) struct Syncs {
    library: PathBuf,
    told: PathBuf,
}

impl Syncs {
    /// Compiles it into `folder`.
    pub(crate) fn compile(folder: &Path) -> Result<Self> {
        let (source, library) = (folder.join("syncs.c"), folder.join("syncs.so"));
        std::fs::write(&source, SOURCE)?;
        let status =
            Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status()?;
        if !status.success() {
            return Err(format!("cc ended with {status}").into());
        }
        Ok(Self { library, told: folder.join("syncs.count") })
    }

    /// Has the command's syncs counted, and left out where they are not wanted.
    pub(crate) fn watch(&self, command: &mut Command, wanted: bool) {
        command.env("LD_PRELOAD", &self.library).env("SYNCS_TOLD_TO", &self.told);
        if !wanted {
            command.env("SYNCS_LEFT_OUT", "1");
        }
    }

    /// How many there were in the command that ended last.
    pub(crate) fn count(&self) -> Result<usize> {
        Ok(std::fs::read_to_string(&self.told)?.parse()?)
    }
}
