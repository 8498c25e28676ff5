//! From settled configuration to what a worker's proxy is told: TLS sides built, keys put in.
//! Owns the keys of the process. Never reads a file, never half-builds: all faults of all listeners and backends at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use super::fault;
use super::pools::Orders;
use super::secret::{self, Secret};
use crate::config::snapshot::{Snapshot, TicketPolicy, Transport};
use crate::proxy::admission::PrefixTable;
use crate::proxy::settings::Settings;
use crate::proxy::token::{BranchKey, TokenKeys};
use crate::sys::StartUpFault;
use crate::tls::identity::{ClientSide, IdentityFault, IdentityFaultKind, ServerSide};
use crate::tls::ticket::Tickets;

/// What all workers and all reloads of one process share.
#[derive(Clone)]
pub struct Keys {
    branch: BranchKey,
    tokens: TokenKeys,
    tickets: Tickets,
    /// What `tickets` were made by.
    policy: TicketPolicy,
    prefixes: Arc<PrefixTable>,
    clock: Arc<dyn TimeProvider>,
    /// What the operator wants of backends.
    pub orders: Orders,
}

/// A side of TLS that cannot be built: whose it is, and why.
pub struct SideFault {
    /// `listener edge-tls` or `pool registrars, backend r1`.
    pub place: String,
    pub fault: IdentityFault,
}

fn tickets(clock: &Arc<dyn TimeProvider>, policy: &TicketPolicy) -> Result<Tickets, SideFault> {
    Tickets::of_policy(Arc::clone(clock), policy).map_err(|fault| SideFault {
        place: "tls.tickets.key_file".to_owned(),
        fault: IdentityFault {
            kind: IdentityFaultKind::Unsupported { reason: fault.to_string() },
            path: PathBuf::new(),
        },
    })
}

impl Keys {
    /// # Errors
    /// The file of ticket keys has a fault; `check` would have told it.
    pub fn new(node: &str, secret: &Secret, policy: &TicketPolicy) -> Result<Keys, SideFault> {
        // The branch key is of this process alone: a response to an earlier life must not be taken for one of ours.
        let mut branch = [0; 16];
        secret::random(&mut branch);
        let clock: Arc<dyn TimeProvider> = Arc::new(DefaultTimeProvider);
        Ok(Keys {
            branch: BranchKey::new(branch),
            tokens: TokenKeys::new(node, &secret.current, secret.previous.as_deref()),
            tickets: tickets(&clock, policy)?,
            policy: policy.clone(),
            prefixes: Arc::new(PrefixTable::new()),
            clock,
            orders: Orders::default(),
        })
    }

    /// The same keys, but those of the tokens; and those of the tickets where `policy` is another than before.
    ///
    /// # Errors
    /// As `new`.
    pub fn renewed(
        &self,
        node: &str,
        secret: &Secret,
        policy: &TicketPolicy,
    ) -> Result<Keys, SideFault> {
        let tokens = TokenKeys::new(node, &secret.current, secret.previous.as_deref());
        let mut keys = Keys { tokens, ..self.clone() };
        if keys.policy != *policy {
            keys.tickets = tickets(&keys.clock, policy)?;
            keys.policy = policy.clone();
        }
        Ok(keys)
    }

    /// Wipes the ticket keys that have run out.
    pub fn sweep(&self) {
        self.tickets.sweep();
    }

    pub fn clock(&self) -> &dyn TimeProvider {
        self.clock.as_ref()
    }

    /// What `workers` workers are told.
    ///
    /// # Errors
    /// Everything that is wrong with certificates, keys and trust.
    pub fn settings(&self, snapshot: Snapshot, workers: u8) -> Result<Settings, Vec<SideFault>> {
        let mut faults = Vec::new();
        let server_sides = self.server_sides(&snapshot, &mut faults);
        let client_sides = self.client_sides(&snapshot, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let settings = Settings::new(
            snapshot,
            server_sides,
            client_sides,
            self.branch,
            self.tokens.clone(),
            workers,
            Arc::clone(&self.prefixes),
        );
        Ok(self.orders.clone().apply(settings))
    }

    fn server_sides(
        &self,
        snapshot: &Snapshot,
        faults: &mut Vec<SideFault>,
    ) -> Vec<Option<ServerSide>> {
        let build = |listener: &crate::config::snapshot::Listener| {
            if listener.transport == Transport::Tcp {
                return None;
            }
            let zone = &snapshot.zones[usize::from(listener.zone)];
            let clock = Arc::clone(&self.clock);
            match ServerSide::build(listener, zone, &snapshot.tls, clock, &self.tickets) {
                Ok(side) => Some(side),
                Err(wrong) => {
                    let place = format!("listener {}", listener.name);
                    faults.extend(
                        wrong.into_iter().map(|fault| SideFault { place: place.clone(), fault }),
                    );
                    None
                }
            }
        };
        snapshot.listeners.iter().map(build).collect()
    }

    fn client_sides(
        &self,
        snapshot: &Snapshot,
        faults: &mut Vec<SideFault>,
    ) -> Vec<Vec<Option<ClientSide>>> {
        let mut sides = Vec::new();
        for pool in &snapshot.pools {
            let zone = &snapshot.zones[usize::from(pool.zone)];
            let mut of_pool = Vec::new();
            for backend in &pool.backends {
                if backend.transport == Transport::Tcp {
                    of_pool.push(None);
                    continue;
                }
                let clock = Arc::clone(&self.clock);
                let name = &backend.server_name;
                match ClientSide::build(zone, name, pool.allow_wildcard, &snapshot.tls, clock) {
                    Ok(side) => of_pool.push(Some(side)),
                    Err(wrong) => {
                        let place = format!("pool {}, backend {}", pool.name, backend.name);
                        faults.extend(
                            wrong
                                .into_iter()
                                .map(|fault| SideFault { place: place.clone(), fault }),
                        );
                        of_pool.push(None);
                    }
                }
            }
            sides.push(of_pool);
        }
        sides
    }
}

impl SideFault {
    /// In the words of a start-up fault.
    pub fn start_up(&self) -> StartUpFault {
        let file = match self.fault.path == Path::new("") {
            true => self.place.clone(),
            false => format!("{}, {}", self.place, self.fault.path.display()),
        };
        fault::start_up(
            "cannot prepare TLS",
            file,
            self.fault.to_string().lines().collect::<Vec<_>>().join(" "),
            self.fault.cure(),
        )
    }
}
