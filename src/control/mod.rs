//! The life of the process: supervisor, signals, admin, export. Off the data cores; never per-message work.
