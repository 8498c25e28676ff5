//! `ringfront config`: the embedded default file, and the schema of the file.

use std::process::ExitCode;

use super::args::ConfigCommand;
use crate::config;

pub fn run(command: ConfigCommand) -> Result<ExitCode, miette::Report> {
    match command {
        ConfigCommand::Default => super::print(config::DEFAULT.as_bytes()),
        ConfigCommand::Schema => {
            let schema = format!("{:#}\n", config::schema());
            super::print(schema.as_bytes())
        }
    }
}
