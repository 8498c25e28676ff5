//! The life of the process: supervisor, signals, admin, export. Off the data cores; never per-message work.

pub mod fault;
pub mod files;
pub mod log;
