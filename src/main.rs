//! The `tributary` command: parse the arguments, run one command, turn what came of it into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tributary::cli::main()
}
