//! The start-up probe: what the kernel can do, found by doing it, and words for what it cannot.
//! Never judges by the kernel's version alone. Never changes the host.

use std::io;

use super::StartUpFault;

/// Steps of building a ring whose failures are explained in detail.
pub(super) const SETUP: &str = "create an io_uring";
pub(super) const FILES: &str = "make a descriptor table";

/// Why `step` failed at `place`, in four lines.
pub(super) fn explain(step: &str, place: &str, error: &io::Error) -> StartUpFault {
    StartUpFault {
        what: format!("cannot {step}: {}", text(error)),
        place: place.to_owned(),
        cause: String::new(),
        cure: String::new(),
    }
}

/// The error's text without Rust's "(os error N)".
pub fn text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
