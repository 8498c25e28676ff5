//! Sessions that a load generator may resume: thousands of connections to one server, each with a ticket of its own.
//! rustls' store keeps eight tickets for a server, which is right for a client and too few for a crowd.
//! Owns the tickets. Never hands one out twice (RFC 8446 C.4).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;

/// Tickets kept, the oldest given up first: one for each connection of a large run, about 1 KiB each.
const TICKETS_MAX: usize = 16 * 1024;

/// The store of one client side, whatever the server's name: a load generator has one.
#[derive(Debug)]
pub(super) struct LoadSessions {
    others: ClientSessionMemoryCache,
    tickets: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl LoadSessions {
    pub fn new() -> LoadSessions {
        LoadSessions {
            others: ClientSessionMemoryCache::new(1),
            tickets: Mutex::new(VecDeque::new()),
        }
    }
}

impl ClientSessionStore for LoadSessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.others.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.others.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.others.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.others.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.others.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(
        &self,
        _server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        if tickets.len() >= TICKETS_MAX {
            tickets.pop_front();
        }
        tickets.push_back(value);
    }

    fn take_tls13_ticket(
        &self,
        _server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        // The newest lives longest.
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner).pop_back()
    }
}
