//! The life of the process: supervisor, signals, admin, export. Off the data cores; never per-message work.

pub mod admin;
pub mod door;
pub mod export;
pub mod fault;
pub mod files;
pub mod fleet;
pub mod log;
pub mod memory;
pub mod problem;
pub mod secret;
pub mod settings;
pub mod totals;
