//! The command line of Aftercall.

use std::process::ExitCode;

/// Half of a session's work is small allocations on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    aftercall::cli::main()
}
