//! The other Machines without any I/O: the embedded backend as a SIP book would tell it, and a crowd that is joined to
//! it by bytes in memory, over TCP and TLS, in virtual time.

#[path = "peer/backend.rs"]
mod backend;
#[path = "peer/callee.rs"]
mod callee;
#[path = "peer/crowd.rs"]
mod crowd;
#[path = "peer/house.rs"]
mod house;
#[path = "peer/phones.rs"]
mod phones;
#[path = "peer/relay.rs"]
mod relay;
#[path = "peer/sides.rs"]
mod sides;
#[path = "peer/wire.rs"]
mod wire;
