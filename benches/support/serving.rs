//! A running `serve`.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::support::{Result, aftercall};

/// A `serve` that is killed when dropped, as a power cut would end it.
pub(crate) struct Serving(Child);

impl Serving {
    /// Starts `serve` with the configuration in `folder`.
    pub(crate) fn start(folder: &Path, store: &str) -> Result<Self> {
        let mut command = aftercall(folder);
        Ok(Self(command.arg("serve").env("AFTERCALL_STORE", store).stdin(Stdio::null()).spawn()?))
    }

    /// Its number among the processes; an error when it has ended by itself.
    pub(crate) fn running(&mut self) -> Result<u32> {
        match self.0.try_wait()? {
            Some(status) => Err(format!("serve ended with {status}").into()),
            None => Ok(self.0.id()),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
