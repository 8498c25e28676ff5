//! Two sessions and the bytes between them.

use ringfront::base::chunk::ChunkPool;
use ringfront::base::time::{Duration, Instant};
use ringfront::tls::{ClientSide, Fault, Opened, ServerSide, Session};

/// One end: the session, what the caller keeps for it, and what it has said.
pub struct End {
    pub session: Session,
    /// Half a record, kept as `Session::open` asks.
    pub kept: Vec<u8>,
    /// Everything that was opened.
    pub plain: Vec<u8>,
    /// What waits to be carried to the peer.
    pub outbox: Vec<u8>,
    pub fault: Option<Fault>,
    pub peer_closed: bool,
    pub times_established: u32,
    pub steps: u32,
    pub now: Instant,
}

impl End {
    pub fn new(session: Session) -> End {
        End {
            session,
            kept: Vec::new(),
            plain: Vec::new(),
            outbox: Vec::new(),
            fault: None,
            peer_closed: false,
            times_established: 0,
            steps: 0,
            now: Instant(1),
        }
    }

    pub fn server(side: &ServerSide) -> End {
        End::new(Session::server(side))
    }

    pub fn client(side: &ClientSide) -> End {
        let mut end = End::new(Session::client(side).unwrap());
        end.receive(&[]).unwrap();
        end
    }

    /// Bytes from the peer, as one receive brings them.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Opened, Fault> {
        self.kept.extend_from_slice(bytes);
        let opened = self.session.open(self.now, &mut self.kept, &mut self.plain, &mut self.outbox);
        match opened {
            Ok(opened) => {
                self.kept.drain(..opened.consumed);
                self.peer_closed |= opened.peer_closed;
                self.times_established += u32::from(opened.established);
                self.steps += opened.handshake_steps;
            }
            Err(fault) => {
                self.fault.get_or_insert(fault);
            }
        }
        opened
    }

    pub fn seal(&mut self, plain: &[u8]) {
        let mut pool = ChunkPool::new(usize::MAX);
        let mut chunk = pool.take(Session::sealed_len(plain.len())).unwrap();
        self.session.seal(plain, &mut chunk).unwrap();
        self.outbox.extend_from_slice(chunk.bytes());
    }

    pub fn close(&mut self) {
        self.session.close(&mut self.outbox);
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }
}

/// Carries bytes in pieces of at most `piece` until both ends are silent. A fault ends its own end only, so that the
/// other one sees the alert.
pub fn converse_in(client: &mut End, server: &mut End, piece: usize) {
    loop {
        let (up, down) = (std::mem::take(&mut client.outbox), std::mem::take(&mut server.outbox));
        if up.is_empty() && down.is_empty() {
            return;
        }
        for bytes in up.chunks(piece) {
            let _ = server.receive(bytes);
        }
        for bytes in down.chunks(piece) {
            let _ = client.receive(bytes);
        }
    }
}

pub fn converse(client: &mut End, server: &mut End) {
    converse_in(client, server, usize::MAX);
}

/// A finished handshake.
pub fn connected(client: &ClientSide, server: &ServerSide) -> (End, End) {
    let (mut client, mut server) = (End::client(client), End::server(server));
    converse(&mut client, &mut server);
    assert_eq!((client.fault, server.fault), (None, None));
    assert!(client.session.established() && server.session.established());
    (client, server)
}
