//! The engine on the real kernel over loopback: what the simulator only believes.
//! Names in parentheses are the numbers of the known pitfalls of io_uring that a test stands for;
//! the list is in docs/engine.md. A host that cannot run io_uring fails here, loudly.

#[path = "ring/echo.rs"]
mod echo;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use echo::{
    Bench, PATIENCE, Sizes, Told, Wish, assert_clean, closed, conn_of, dial, echoed, is_reset,
    pattern, wait_until_stuck,
};
use ringfront::base::machine::{CloseCause, ConnId};
use ringfront::sys::clock::monotonic;
use ringfront::sys::uring::PeerNames;
use ringfront::worker::{Command, WorkerEvent};

#[test]
fn a_connection_is_told_of_with_its_peer_on_both_families() {
    let bench = Bench::start(Sizes::default());
    let streams = [dial(bench.v4), dial(bench.v6)];
    let told = bench.report_when(0, |report| report.machine.told.len() == 2).machine.told;
    for (listener, stream) in streams.iter().enumerate() {
        let local = stream.local_addr().unwrap();
        assert!(
            told.iter().any(|told| matches!(told, Told::Arrived { peer, listener: from, .. }
                if *peer == local && *from as usize == listener)),
            "{told:?}"
        );
    }
    bench.stop();
}

#[test]
fn without_the_command_a_descriptor_names_the_peer() {
    let bench = Bench::start(Sizes { peer_names: PeerNames::ByDescriptor, ..Sizes::default() });
    let mut stream = dial(bench.v6);
    echoed(&mut stream, b"hello");
    let report = bench.report(0);
    assert!(matches!(report.machine.told[0],
        Told::Arrived { peer, .. } if peer == stream.local_addr().unwrap()));
    bench.stop();
}

#[test]
fn echoes_of_many_sizes_come_back_whole() {
    let bench = Bench::start(Sizes::default());
    let mut stream = bench.dial();
    for size in [1, 2, 100, 4095, 4096, 4097, 8192, 65_536, 1_000_000] {
        let bytes: Vec<u8> = (0..size).map(pattern).collect();
        echoed(&mut stream, &bytes);
    }
    assert_clean(&bench);
    bench.stop();
}

#[test]
fn bytes_that_trickle_in_arrive_in_order() {
    let bench = Bench::start(Sizes::default());
    let mut stream = dial(bench.v6);
    for index in 0..200 {
        stream.write_all(&[pattern(index)]).unwrap();
    }
    let mut back = [0; 200];
    stream.read_exact(&mut back).unwrap();
    assert!(back.iter().enumerate().all(|(index, &byte)| byte == pattern(index)));
    assert_clean(&bench);
    bench.stop();
}

/// (5, 6, 7) A peer that does not read stops the send half way; one send stays under way, and all
/// arrives in order when it reads again.
#[test]
fn a_peer_that_does_not_read_gets_everything_in_order_later() {
    const BYTES: usize = 24 * 1024 * 1024;
    let bench = Bench::start(Sizes::default());
    let mut stream = bench.dial();
    let conn =
        conn_of(&bench.report_when(0, |report| !report.machine.told.is_empty()).machine.told);
    bench.wish(0, vec![Wish::Send { conn, bytes: BYTES, close: true }]);
    wait_until_stuck(&bench);
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(back.len(), BYTES);
    assert!(back.iter().enumerate().all(|(index, &byte)| byte == pattern(index)));
    assert_clean(&bench);
    bench.stop();
}

/// (8) Closed in every state: by the peer, by us, while sending, while receiving, while idle.
#[test]
fn a_close_in_any_state_ends_in_one_closed_and_a_free_slot() {
    let bench = Bench::start(Sizes::default());
    let told_of = || bench.report_when(0, |report| report.live_accepted == 1);
    // Idle, then gone.
    let stream = bench.dial();
    told_of();
    drop(stream);
    bench.report_when(0, |report| report.turn.closes == 1);
    // Asked by the Machine: the last bytes come first, then the end of the stream.
    let mut stream = bench.dial();
    stream.write_all(b"CLOSE").unwrap();
    let mut last = Vec::new();
    stream.read_to_end(&mut last).unwrap();
    assert_eq!(last, b"BYE");
    drop(stream);
    bench.report_when(0, |report| report.turn.closes == 2);
    // Reset while idle.
    let stream = bench.dial();
    told_of();
    reset(stream);
    bench.report_when(0, |report| report.turn.closes == 3);
    // Gone while our send is under way.
    let stream = bench.dial();
    let told = told_of();
    let conn = last_arrival(&told.machine.told);
    bench.wish(0, vec![Wish::Send { conn, bytes: 32 * 1024 * 1024, close: false }]);
    wait_until_stuck(&bench);
    drop(stream);
    let report = bench.report_when(0, |report| report.turn.closes == 4);
    assert_eq!(report.live_accepted, 0);
    assert!(closed(&report.machine.told).iter().all(|cause| *cause != CloseCause::ConnectFailed));
    // The slot is as good as new.
    echoed(&mut bench.dial(), b"again");
    assert_clean(&bench);
    bench.stop();
}

fn last_arrival(told: &[Told]) -> ConnId {
    let mut arrivals = told.iter().filter_map(|told| match told {
        Told::Arrived { conn, .. } => Some(*conn),
        _ => None,
    });
    arrivals.next_back().expect("a connection arrived")
}

/// Closes with a reset, as a crashed peer does.
fn reset(stream: TcpStream) {
    let stream = socket2::Socket::from(stream);
    stream.set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_reset_is_told_as_such() {
    let bench = Bench::start(Sizes::default());
    let stream = bench.dial();
    bench.report_when(0, |report| report.live_accepted == 1);
    reset(stream);
    let report = bench.report_when(0, |report| report.turn.closes == 1);
    assert_eq!(closed(&report.machine.told), [CloseCause::Reset]);
    bench.stop();
}

#[test]
fn half_a_close_is_told_as_finished_and_we_may_still_send() {
    let bench = Bench::start(Sizes::default());
    let mut stream = dial(bench.v6);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(back, b"last words");
    let report = bench.report_when(0, |report| report.turn.closes == 1);
    let conn = conn_of(&report.machine.told);
    assert!(report.machine.told.contains(&Told::Finished { conn }));
    assert_eq!(closed(&report.machine.told), [CloseCause::Asked]);
    assert_clean(&bench);
    bench.stop();
}

/// (17) A send to a peer that is gone is an error and never a signal.
#[test]
fn a_send_to_a_peer_that_is_gone_closes_and_kills_nobody() {
    let bench = Bench::start(Sizes::default());
    let stream = bench.dial();
    let told = bench.report_when(0, |report| report.live_accepted == 1).machine.told;
    let conn = conn_of(&told);
    bench.wish(0, vec![Wish::Send { conn, bytes: 32 * 1024 * 1024, close: false }]);
    wait_until_stuck(&bench);
    reset(stream);
    let report = bench.report_when(0, |report| report.turn.closes == 1);
    let causes = closed(&report.machine.told);
    assert!(matches!(causes[..], [CloseCause::Reset | CloseCause::SendFailed]), "{causes:?}");
    assert_clean(&bench);
    bench.stop();
}

/// (8) An abort resets: nothing is sent any more, and what is under way ends first.
#[test]
fn an_abort_resets_also_while_a_send_is_under_way() {
    let bench = Bench::start(Sizes::default());
    let mut stream = bench.dial();
    let told = bench.report_when(0, |report| report.live_accepted == 1).machine.told;
    let conn = conn_of(&told);
    bench.wish(0, vec![Wish::Send { conn, bytes: 32 * 1024 * 1024, close: false }]);
    wait_until_stuck(&bench);
    bench.wish(0, vec![Wish::Close { conn, abort: true }]);
    let report = bench.report_when(0, |report| report.turn.closes == 1);
    assert_eq!(closed(&report.machine.told), [CloseCause::Asked]);
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(is_reset(&error), "{error}");
    assert_clean(&bench);
    bench.stop();
}

/// An orderly close that the peer never reads is hastened by an abort.
#[test]
fn an_abort_hastens_an_orderly_close() {
    let bench = Bench::start(Sizes::default());
    let stream = bench.dial();
    let told = bench.report_when(0, |report| report.live_accepted == 1).machine.told;
    let conn = conn_of(&told);
    bench.wish(0, vec![Wish::Send { conn, bytes: 32 * 1024 * 1024, close: false }]);
    wait_until_stuck(&bench);
    bench.wish(0, vec![Wish::Close { conn, abort: false }]);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.report(0).turn.closes, 0);
    bench.wish(0, vec![Wish::Close { conn, abort: true }]);
    bench.report_when(0, |report| report.turn.closes == 1);
    drop(stream);
    assert_clean(&bench);
    bench.stop();
}

/// (20) A peer that is still sending when we close reads our last answer, not a reset.
#[test]
fn a_close_lingers_so_that_the_last_answer_is_read() {
    let bench = Bench::start(Sizes::default());
    let mut stream = bench.dial();
    stream.write_all(b"CLOSE").unwrap();
    bench.report_when(0, |report| report.turn.sends == 1);
    // Sent after the close was asked; unread bytes would make the kernel reset the connection.
    for _ in 0..20 {
        stream.write_all(&[b'x'; 1000]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut last = Vec::new();
    stream.read_to_end(&mut last).unwrap();
    assert_eq!(last, b"BYE");
    let report = bench.report(0);
    assert_eq!(report.turn.bytes_discarded, 20_000);
    assert_eq!(report.turn.closes, 0, "it lingers while the peer keeps its side open");
    drop(stream);
    bench.report_when(0, |report| report.turn.closes == 1);
    bench.stop();
}

/// (20) It lingers for a second at most, and a peer that sends without end is reset.
#[test]
fn lingering_ends_in_time_and_in_bytes() {
    let bench = Bench::start(Sizes::default());
    let mut silent = bench.dial();
    silent.write_all(b"CLOSE").unwrap();
    let begun = std::time::Instant::now();
    bench.report_when(0, |report| report.turn.closes == 1);
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(3));

    let mut flood = bench.dial();
    flood.write_all(b"CLOSE").unwrap();
    let error = loop {
        if let Err(error) = flood.write_all(&[b'x'; 65_536]) {
            break error;
        }
    };
    assert!(is_reset(&error), "{error}");
    let report = bench.report_when(0, |report| report.turn.closes == 2);
    // A second of it would be a hundred times as much.
    assert!(report.turn.bytes_discarded < 8 * 1024 * 1024, "{:?}", report.turn);
    bench.stop();
}

/// (9) The kernel gives a slot to the next connection at once; each life has its own generation.
#[test]
fn a_slot_is_used_again_with_a_new_generation() {
    let bench = Bench::start(Sizes::default());
    for life in 0..50 {
        let mut stream = bench.dial();
        echoed(&mut stream, b"life");
        let report = bench.report(0);
        let conn = last_arrival(&report.machine.told);
        assert_eq!((conn.slot, conn.generation), (0, life));
        drop(stream);
        bench.report_when(0, |report| report.live_accepted == 0);
    }
    assert_clean(&bench);
    bench.stop();
}

/// (8, 9) Connections that come and go under load: no byte of one life reaches another.
#[test]
fn lives_that_overlap_in_one_slot_never_mix() {
    let bench = Bench::start(Sizes::default());
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let to = if thread % 2 == 0 { bench.v4 } else { bench.v6 };
            scope.spawn(move || {
                for round in 0..100_u8 {
                    let mut stream = dial(to);
                    echoed(&mut stream, &[thread + 1, round, thread + 1, round]);
                    if round % 3 == 0 {
                        reset(stream);
                    }
                }
            });
        }
    });
    let report = bench.report_when(0, |report| report.live_accepted == 0);
    assert_eq!((report.turn.accepts, report.turn.closes), (400, 400));
    assert_clean(&bench);
    bench.stop();
}

/// (1) Two buffers for many senders: receives starve, are armed again after the buffers went back,
/// and every byte arrives in order.
#[test]
fn a_starved_receive_is_armed_again_and_loses_nothing() {
    let sizes = Sizes { buffers: 2, buffer_bytes: 512, ..Sizes::default() };
    let bench = Bench::start(sizes);
    let to = bench.v4;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                let mut stream = dial(to);
                let bytes: Vec<u8> = (0..200_000).map(pattern).collect();
                echoed(&mut stream, &bytes);
            });
        }
    });
    let report = bench.report(0);
    assert!(report.turn.starved > 0, "nothing starved: {:?}", report.turn);
    assert!(report.turn.rearms >= report.turn.starved);
    // Never spinning: each end of a receive costs one arming and no turn without any byte.
    assert!(report.turn.turns < 4 * report.turn.receives, "{:?}", report.turn);
    assert_clean(&bench);
    bench.stop();
}

/// (2) A multishot that ended with bytes in its last completion is armed again.
#[test]
fn a_multishot_that_ends_with_bytes_is_armed_again() {
    // The kernel ends the multishots when its completion queue overflows.
    let sizes = Sizes { completions: 32, submissions: 32, ..Sizes::default() };
    let bench = Bench::start(sizes);
    overload(&bench);
    let report = bench.report(0);
    assert!(report.turn.receive_ends > 0, "{:?}", report.turn);
    bench.stop();
}

/// (5, 15) Completions overflow, submissions find the queue full: nothing is lost, all is counted.
#[test]
fn an_overflowing_completion_queue_loses_nothing() {
    let sizes = Sizes { completions: 32, submissions: 32, ..Sizes::default() };
    let bench = Bench::start(sizes);
    overload(&bench);
    let report = bench.report_when(0, |report| report.machine.bytes_out == 0);
    assert!(report.ring.overflows > 0, "{:?}", report.ring);
    assert_eq!(report.turn.stale_completions, 0);
    bench.stop();
}

fn overload(bench: &Bench) {
    let bytes: Vec<u8> = (0..50_000).map(pattern).collect();
    for _ in 0..3 {
        let mut streams: Vec<TcpStream> = (0..40).map(|_| bench.dial()).collect();
        std::thread::scope(|scope| {
            for stream in &mut streams {
                scope.spawn(|| echoed(stream, &bytes));
            }
        });
    }
}

/// (7, 10) Accepting pauses before the table is full; those in the kernel's queue are served when
/// there is room again, and nobody was lost.
#[test]
fn accepting_pauses_at_the_limit_and_resumes() {
    let bench = Bench::start(Sizes { accepted: 12, accept_limit: 4, ..Sizes::default() });
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..4 {
        streams.push(bench.dial());
        echoed(streams.last_mut().unwrap(), b"in");
    }
    // The kernel completes these; nobody accepts them for now.
    let mut late: Vec<TcpStream> = (0..8).map(|_| bench.dial()).collect();
    for stream in &mut late {
        stream.write_all(b"late").unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(bench.report(0).live_accepted, 4);
    for mut stream in late {
        streams.remove(0);
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"late");
        streams.push(stream);
    }
    assert_eq!(bench.report(0).turn.accepts_lost, 0);
    bench.stop();
}

/// (7, 10) A table that fills nevertheless costs the connection that found no slot, ends the accept
/// and is tried again after a pause, not at once.
#[test]
fn a_full_table_ends_the_accept_and_is_tried_again_after_a_pause() {
    let bench = Bench::start(Sizes { accepted: 4, accept_limit: 4, ..Sizes::default() });
    bench.report_when(0, |report| report.turn.turns > 1);
    bench.wish(0, vec![Wish::Accept { open: false }]);
    bench.report_when(0, |report| report.turn.accepts_ended == 2);
    let mut streams: Vec<TcpStream> = (0..6).map(|_| bench.dial()).collect();
    bench.wish(0, vec![Wish::Accept { open: true }]);
    let mut lost = 0;
    for stream in &mut streams {
        let write = stream.write_all(b"hi");
        let mut back = [0; 2];
        match write.and_then(|()| stream.read_exact(&mut back)) {
            Ok(()) => assert_eq!(&back, b"hi"),
            Err(error) => {
                assert!(error.kind() != ErrorKind::WouldBlock, "it hangs");
                lost += 1;
            }
        }
        if lost > 0 {
            break;
        }
    }
    assert!(lost > 0);
    let report = bench.report(0);
    assert_eq!(report.turn.accepts_starved, 1, "{:?}", report.turn);
    drop(streams);
    bench.report_when(0, |report| report.live_accepted == 0);
    echoed(&mut bench.dial(), b"room again");
    bench.stop();
}

#[test]
fn the_machine_stops_and_resumes_accepting() {
    let bench = Bench::start(Sizes::default());
    bench.report_when(0, |report| report.turn.turns > 1);
    bench.wish(0, vec![Wish::Accept { open: false }]);
    bench.report_when(0, |report| report.turn.accepts_ended == 2);
    let mut stream = bench.dial();
    stream.write_all(b"wait").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.report(0).turn.accepts, 0);
    bench.wish(0, vec![Wish::Accept { open: true }]);
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    bench.stop();
}

/// A client that is gone before its name was asked for is lost, counted, and costs no slot.
#[test]
fn a_client_that_is_gone_at_once_costs_no_slot() {
    let bench = Bench::start(Sizes::default());
    for round in 0..100 {
        reset(dial(if round % 2 == 0 { bench.v4 } else { bench.v6 }));
    }
    let report = bench.report_when(0, |report| {
        let over = report.turn.closes + report.turn.accepts_lost + report.turn.accepts_ended;
        over >= 100 && report.live_accepted == 0
    });
    assert!(report.turn.accepts + report.turn.accepts_lost >= 100 - report.turn.accepts_ended);
    let mut streams: Vec<TcpStream> = (0..40).map(|_| bench.dial()).collect();
    for stream in &mut streams {
        echoed(stream, b"room for all");
    }
    assert_clean(&bench);
    bench.stop();
}

/// (10) Automatic slots stay below the ones that the Machine chooses.
#[test]
fn accepted_and_dialled_connections_have_slots_of_their_own() {
    let sizes = Sizes::default();
    let bench = Bench::start(sizes);
    for to in [bench.v4, bench.v6] {
        let deadline = monotonic() + PATIENCE;
        bench.wish(0, vec![Wish::Connect { to, deadline }]);
    }
    // Both ends are ours: each dialled connection is also accepted.
    let told = bench.report_when(0, |report| (report.live_accepted, report.live_own) == (2, 2));
    for told in &told.machine.told {
        match told {
            Told::Arrived { conn, .. } => assert!(conn.slot < sizes.accepted),
            Told::Connected { conn } => assert!(conn.slot >= sizes.accepted),
            _ => {}
        }
    }
    assert_clean(&bench);
    bench.stop();
}

#[test]
fn a_dialled_connection_sends_receives_and_closes() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let bench = Bench::start(Sizes::default());
        let server = TcpListener::bind(bind).unwrap();
        let to = server.local_addr().unwrap();
        let deadline = monotonic() + PATIENCE;
        bench.wish(0, vec![Wish::Connect { to, deadline }]);
        let (mut peer, _) = server.accept().unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(!socket2::SockRef::from(&peer).tcp_nodelay().unwrap_or(false));
        echoed(&mut peer, b"dialled");
        let conn = conn_of(&bench.report(0).machine.told);
        bench.wish(0, vec![Wish::Close { conn, abort: false }]);
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
        drop(peer);
        let report = bench.report_when(0, |report| report.live_own == 0);
        assert_eq!(closed(&report.machine.told), [CloseCause::Asked]);
        assert_clean(&bench);
        bench.stop();
    }
}

#[test]
fn a_refused_connect_is_told_and_frees_the_slot() {
    let bench = Bench::start(Sizes { own: 1, ..Sizes::default() });
    let to = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for round in 1..=3 {
        let deadline = monotonic() + PATIENCE;
        bench.wish(0, vec![Wish::Connect { to, deadline }]);
        let report = bench.report_when(0, |report| report.turn.closes == round);
        assert_eq!(closed(&report.machine.told), [CloseCause::ConnectFailed]);
    }
    assert_clean(&bench);
    bench.stop();
}

/// A full backlog drops the handshake: the connect hangs until its deadline.
#[test]
fn a_connect_that_hangs_ends_at_its_deadline() {
    let bench = Bench::start(Sizes { own: 1, ..Sizes::default() });
    let (_server, _fillers, to) = black_hole();
    let begun = std::time::Instant::now();
    let deadline = monotonic() + Duration::from_millis(200);
    bench.wish(0, vec![Wish::Connect { to, deadline }]);
    let report = bench.report_when(0, |report| report.turn.closes == 1);
    assert_eq!(closed(&report.machine.told), [CloseCause::ConnectTimeout]);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_clean(&bench);
    bench.stop();
}

/// (8) A connect that is under way is cancelled before its slot is closed.
#[test]
fn a_connect_under_way_is_closed_when_asked() {
    let bench = Bench::start(Sizes { own: 1, ..Sizes::default() });
    let (_server, _fillers, to) = black_hole();
    let deadline = monotonic() + PATIENCE;
    bench.wish(0, vec![Wish::Connect { to, deadline }]);
    bench.report_when(0, |report| report.live_own == 1);
    let conn = ConnId { slot: Sizes::default().accepted, generation: 0 };
    bench.wish(0, vec![Wish::Close { conn, abort: false }]);
    let report = bench.report_when(0, |report| report.live_own == 0);
    assert_eq!(closed(&report.machine.told), [CloseCause::Asked]);
    assert_clean(&bench);
    bench.stop();
}

/// A listener whose backlog is full, so that further handshakes are dropped.
fn black_hole() -> (socket2::Socket, Vec<socket2::Socket>, SocketAddr) {
    use socket2::{Domain, Socket, Type};
    let server = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    server.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    server.listen(0).unwrap();
    let to = server.local_addr().unwrap();
    let fillers = (0..3).map(|_| {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        let _ = filler.connect(&to);
        filler
    });
    let fillers = fillers.collect();
    std::thread::sleep(Duration::from_millis(20));
    (server, fillers, to.as_socket().unwrap())
}

/// Two sleeping rings: an envelope wakes the other one by a message from ring to ring.
#[test]
fn a_ring_message_wakes_a_sleeping_worker() {
    let bench = Bench::with_workers(2, Sizes::default());
    for round in 0..50 {
        std::thread::sleep(Duration::from_millis(1));
        bench.wish(0, vec![Wish::Post { worker: 1, envelope: round }]);
        // Worker 1 is not asked anything: the question itself would wake it.
        std::thread::sleep(Duration::from_millis(3));
    }
    let sent = bench.report(0);
    assert_eq!(sent.turn.crossings_out, 50);
    assert!(sent.turn.wakes >= 45, "{:?}", sent.turn);
    let received = bench.report(1);
    assert_eq!(received.turn.crossings_in, 50);
    // Woken for each of them and not by the last question.
    assert!(received.turn.turns >= 45, "{:?}", received.turn);
    bench.stop();
}

#[test]
fn a_full_mailbox_brings_the_envelope_back() {
    let bench = Bench::with_workers(2, Sizes { mailbox: 4, ..Sizes::default() });
    let posts = (0..1000).map(|envelope| Wish::Post { worker: 1, envelope }).collect();
    bench.wish(0, posts);
    let sent = bench.report_when(0, |report| report.turn.crossings_out > 0);
    assert_eq!(sent.turn.crossings_out + sent.turn.undelivered, 1000);
    assert!(sent.turn.undelivered > 0);
    let received =
        bench.report_when(1, |report| report.turn.crossings_in == sent.turn.crossings_out);
    assert_eq!(received.turn.undelivered, 0);
    bench.stop();
}

/// (15) A ring that sleeps without a deadline wakes at once when control writes to its event.
#[test]
fn an_eventfd_wakes_a_sleeping_ring() {
    let bench = Bench::start(Sizes::default());
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(5));
        let begun = std::time::Instant::now();
        bench.report(0);
        assert!(begun.elapsed() < Duration::from_millis(500));
    }
    bench.stop();
}

/// (13, 21) A panic costs this worker's connections; the listeners and the mailboxes live on, and
/// the kernel keeps what it may still write into.
#[test]
fn a_panic_costs_the_connections_and_the_worker_lives_on() {
    let bench = Bench::with_workers(2, Sizes::default());
    let mut streams: Vec<TcpStream> = (0..16).map(|_| bench.dial()).collect();
    for stream in &mut streams {
        echoed(stream, b"alive");
    }
    let told = bench.report(0).machine.told;
    let mine: Vec<SocketAddr> = told
        .iter()
        .filter_map(|told| match told {
            Told::Arrived { peer, .. } => Some(*peer),
            _ => None,
        })
        .collect();
    let (mut lost, mut kept): (Vec<_>, Vec<_>) =
        streams.into_iter().partition(|stream| mine.contains(&stream.local_addr().unwrap()));
    assert!(!lost.is_empty() && !kept.is_empty());
    let begun = std::time::Instant::now();
    lost[0].write_all(b"PANIC").unwrap();
    for stream in &mut lost {
        let over = stream.read(&mut [0; 8]);
        assert!(matches!(over, Ok(0)) || over.is_err_and(|error| is_reset(&error)));
    }
    for stream in &mut kept {
        echoed(stream, b"untouched");
    }
    let mut events = Vec::new();
    while events.len() < 4 {
        events.push(bench.events.recv_timeout(PATIENCE).unwrap());
    }
    let panicked = events.iter().find_map(|(worker, event)| match event {
        WorkerEvent::Panicked { message, leaked_bytes } => Some((worker, message, *leaked_bytes)),
        _ => None,
    });
    let (worker, message, leaked) = panicked.expect("the panic is told");
    assert_eq!((*worker, message.as_str()), (0, "as the peer wished"));
    assert!(leaked >= 64 * 4096);
    assert!(matches!(events[3], (0, WorkerEvent::Started { incarnation: 2 })), "{events:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // The new life serves the same port and gets its mail.
    bench.wish(1, vec![Wish::Post { worker: 0, envelope: 7 }]);
    bench.report_when(0, |report| report.machine.told.contains(&Told::Delivered { envelope: 7 }));
    let mut streams: Vec<TcpStream> = (0..16).map(|_| bench.dial()).collect();
    for stream in &mut streams {
        echoed(stream, b"again");
    }
    assert!(bench.report(0).live_accepted > 0);
    bench.stop();
}

#[test]
fn three_panics_within_a_minute_end_the_worker() {
    let bench = Bench::start(Sizes::default());
    // Settings stand: each new life is configured as the last one was, and panics again.
    bench.wish(0, vec![Wish::Panic]);
    let mut panics = 0;
    loop {
        match bench.events.recv_timeout(PATIENCE).unwrap().1 {
            WorkerEvent::Panicked { .. } => panics += 1,
            WorkerEvent::GaveUp { reason } => {
                assert_eq!(reason, "3 panics within a minute");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(panics, 3);
    bench.stop();
}

#[test]
fn a_drain_is_told_when_it_is_over() {
    let bench = Bench::start(Sizes::default());
    let stream = bench.dial();
    bench.report_when(0, |report| report.live_accepted == 1);
    let deadline = monotonic() + PATIENCE;
    bench.workers[0].send(Command::Drain { deadline }).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let started = bench.events.try_recv().unwrap().1;
    assert!(matches!(started, WorkerEvent::Started { .. }));
    assert!(bench.events.try_recv().is_err(), "a connection is still there");
    drop(stream);
    let event = bench.events.recv_timeout(PATIENCE).unwrap().1;
    assert!(matches!(event, WorkerEvent::Drained));
    bench.stop();
}

/// A stop resets what is left and does not wait for peers.
#[test]
fn a_stop_closes_everything_in_time() {
    let bench = Bench::start(Sizes::default());
    let mut stream = bench.dial();
    let told = bench.report_when(0, |report| report.live_accepted == 1).machine.told;
    let conn = conn_of(&told);
    bench.wish(0, vec![Wish::Send { conn, bytes: 32 * 1024 * 1024, close: false }]);
    wait_until_stuck(&bench);
    let begun = std::time::Instant::now();
    bench.workers[0].send(Command::Stop).unwrap();
    let mut stopped = false;
    while let Ok((_, event)) = bench.events.recv_timeout(PATIENCE) {
        stopped |= matches!(event, WorkerEvent::Stopped);
        if stopped {
            break;
        }
    }
    assert!(stopped && begun.elapsed() < Duration::from_millis(1900), "{:?}", begun.elapsed());
    assert!(is_reset(&stream.read_to_end(&mut Vec::new()).unwrap_err()));
    bench.stop();
}

/// (14) Nothing to do: no turn, no system call.
#[test]
fn an_idle_worker_sleeps() {
    let bench = Bench::start(Sizes::default());
    let mut stream = bench.dial();
    echoed(&mut stream, b"one");
    let before = bench.report(0);
    std::thread::sleep(Duration::from_millis(300));
    let after = bench.report(0);
    // The question itself is one turn.
    assert!(after.turn.turns - before.turn.turns <= 2, "{before:?} {after:?}");
    assert!(after.ring.system_calls - before.ring.system_calls <= 3);
    bench.stop();
}

/// (12) Accepting, naming, dialling, half a close: all runs without a thread of the kernel's.
#[test]
fn the_kernel_needs_no_thread_of_its_own() {
    let bench = Bench::start(Sizes::default());
    let mut stream = bench.dial();
    stream.write_all(b"CLOSE").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    let (to, deadline) = (bench.v6, monotonic() + PATIENCE);
    bench.wish(0, vec![Wish::Connect { to, deadline }]);
    bench.report_when(0, |report| report.live_own == 1);
    // Of every test of this process: none may need one.
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let name = std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default();
        assert!(!name.starts_with("iou-"), "{name}");
    }
    bench.stop();
}

/// (8, 11) Cancels that race with bytes under way: every connection ends, whatever the kernel was
/// doing for it.
#[test]
fn an_abort_of_a_flooding_peer_always_ends() {
    let bench = Bench::start(Sizes { buffers: 8, ..Sizes::default() });
    for round in 1..=40 {
        let streams: Vec<TcpStream> = (0..8).map(|_| bench.dial()).collect();
        std::thread::scope(|scope| {
            for mut stream in streams {
                // Floods and reads only now and then, so that receives, sends and starved receives
                // are under way in any mixture.
                scope.spawn(move || {
                    let mut sink = [0; 1000];
                    while stream.write_all(&[b'x'; 3000]).is_ok() {
                        stream.set_nonblocking(true).unwrap();
                        let _ = stream.read(&mut sink);
                        stream.set_nonblocking(false).unwrap();
                    }
                });
            }
            let all = bench.report_when(0, |report| report.live_accepted == 8).machine.told;
            let closes = all.iter().filter_map(|told| match told {
                Told::Arrived { conn, .. } => Some(Wish::Close { conn: *conn, abort: true }),
                _ => None,
            });
            std::thread::sleep(Duration::from_micros(137 * round));
            bench.wish(0, closes.collect());
            bench.report_when(0, |report| report.turn.closes == 8 * round);
        });
    }
    assert_clean(&bench);
    bench.stop();
}
