//! The command line of Aftercall.

use std::process::ExitCode;

fn main() -> ExitCode {
    aftercall::cli::main()
}
