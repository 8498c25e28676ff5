//! The SIP proxy core: a Machine. Never does I/O.
#![forbid(unsafe_code)]
