//! Words on the command line: one file for each command, short; the only place that ends the process.

/// Entry point of the program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
