//! The floors of ringfront that the fuzz targets need, from the same files. Adds nothing.

#![expect(dead_code, reason = "what only the floors above call is not called here")]

#[path = "../../../src/base/mod.rs"]
pub mod base;
#[path = "."]
pub mod config {
    #[path = "../../../src/config/snapshot.rs"]
    pub mod snapshot;
}
#[path = "../../../src/proxy/mod.rs"]
pub mod proxy;
#[path = "../../../src/sip/mod.rs"]
pub mod sip;
#[path = "."]
pub mod telemetry {
    #[path = "../../../src/telemetry/counter.rs"]
    pub mod counter;
    #[path = "../../../src/telemetry/latency.rs"]
    pub mod latency;
}
#[path = "../../../src/tls/mod.rs"]
pub mod tls;
