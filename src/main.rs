//! The `tributary` command: parse the arguments, run one command, turn what came of it into an exit code.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    tributary::cli::main()
}
