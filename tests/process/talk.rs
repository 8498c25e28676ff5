//! Scripted phones (`peer::uac`) on a real ring, against whatever stands at their targets. Owns the worker they run on.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use ringfront::config::snapshot::{Group, Tls};
use ringfront::peer::uac::{Outcome, Phones, Profile, Progress};
use ringfront::sys::uring::{KernelRing, RingPlan};
use ringfront::sys::wake::RingDirectory;
use ringfront::tls::ClientSide;
use ringfront::worker::mailbox::mailboxes;
use ringfront::worker::turn::TurnPlan;
use ringfront::worker::{Command, WorkerPlan, spawn};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::time_provider::DefaultTimeProvider;

use super::process::{PATIENCE, eventually};

/// A TLS client that trusts the CA in `ca`, for `localhost`.
pub fn client_side(ca: &Path) -> ClientSide {
    let authorities: Vec<_> = CertificateDer::pem_file_iter(ca)
        .expect("a PEM file")
        .map(|certificate| certificate.expect("a certificate").to_vec())
        .collect();
    let groups = vec![Group::X25519MlKem768, Group::X25519];
    let tls = Tls { groups, ..Tls::default() };
    let clock = Arc::new(DefaultTimeProvider);
    ClientSide::for_load("localhost", &authorities, false, &tls, clock).expect("a client")
}

/// Runs the phones to the end of their scripts; what they saw.
pub fn talk(profiles: Vec<Profile>) -> Vec<Progress> {
    let own = 2 * profiles.len() as u32;
    let ring = RingPlan::new(0, 0, own, Arc::new(RingDirectory::new(1))).expect("a plan");
    let waker = ring.waker.clone();
    let worker = spawn(WorkerPlan {
        name: "phones".into(),
        turn: TurnPlan { listeners: 0, accepted: 0, accept_limit: 0, own },
        mailboxes: mailboxes(1, 1).remove(0),
        prepare: Box::new(|| {}),
        build_ring: Box::new(move || Ok(KernelRing::new(ring.clone())?)),
        build_machine: Box::new(move |now, _| Phones::new(profiles.clone(), now.0, now)),
        incarnation: Box::new(|| 1),
        wake: Arc::new(move || waker.wake()),
        notify: Box::new(|_| {}),
    })
    .expect("a worker");
    let seen = eventually("the scripts end", || {
        let (sender, receiver) = channel();
        let reply = Box::new(move |report| sender.send(report).expect("it is waited for"));
        worker.send(Command::Report { spare: Vec::new(), reply }).expect("a worker that lives");
        let progress = receiver.recv_timeout(PATIENCE).expect("a report").machine;
        let running = progress.iter().any(|phone| matches!(phone.outcome, Outcome::Running { .. }));
        if running { Err(format!("{progress:#?}")) } else { Ok(progress) }
    });
    worker.send(Command::Stop).expect("a worker that lives");
    worker.join();
    seen
}
