//! Parses the arguments, calls `cli`, turns the result into an exit code. Never anything else.

fn main() -> std::process::ExitCode {
    ringfront::cli::main()
}
