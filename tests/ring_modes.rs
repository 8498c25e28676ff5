//! The other modes of the ring on the real kernel: a thread of the kernel that takes submissions, waits that poll the
//! network cards, sends from our own memory. What they must not change: every byte, every close, every slot.

#[path = "ring/echo.rs"]
#[expect(dead_code, reason = "the rest of it is for tests/ring.rs")]
mod echo;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use echo::{
    Bench, PATIENCE, Sizes, Told, Wish, assert_clean, conn_of, echoed, is_reset, pattern,
    wait_until_stuck,
};
use ringfront::base::machine::CloseCause;
use ringfront::sys::clock::monotonic;
use ringfront::sys::uring::{KernelRing, Mode, RingPlan};
use ringfront::sys::wake::RingDirectory;
use ringfront::worker::{Command, WorkerEvent};

/// Longer than the kernel's thread spins for nothing.
const NAP: Duration = Duration::from_millis(60);

fn other_modes() -> [Sizes; 3] {
    [
        Sizes { mode: Mode::PolledSubmission { core: None }, ..Sizes::default() },
        Sizes { mode: Mode::PolledSubmission { core: Some(0) }, ..Sizes::default() },
        Sizes { mode: Mode::BusyPoll, ..Sizes::default() },
    ]
}

#[test]
fn every_mode_echoes_after_a_nap_and_in_a_hurry() {
    for sizes in other_modes() {
        let bench = Bench::start(sizes);
        let mut stream = bench.dial();
        for size in [1, 100, 4096, 65_536, 1_000_000] {
            let bytes: Vec<u8> = (0..size).map(pattern).collect();
            echoed(&mut stream, &bytes);
            std::thread::sleep(NAP);
        }
        for index in 0..300 {
            echoed(&mut stream, &[pattern(index)]);
        }
        assert_clean(&bench);
        bench.stop();
    }
}

#[test]
fn every_mode_dials_closes_and_resets() {
    for sizes in other_modes() {
        let bench = Bench::start(sizes);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        for round in 1..=20_u64 {
            let (to, deadline) = (server.local_addr().unwrap(), monotonic() + PATIENCE);
            bench.wish(0, vec![Wish::Connect { to, deadline }]);
            let (mut peer, _) = server.accept().unwrap();
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            echoed(&mut peer, b"dialled");
            let conn = conn_of(&bench.report(0).machine.told);
            let abort = round % 2 == 0;
            bench.wish(0, vec![Wish::Close { conn, abort }]);
            let end = peer.read(&mut [0]);
            assert!(if abort {
                end.is_err_and(|error| is_reset(&error))
            } else {
                end.unwrap() == 0
            });
            let report = bench.report_when(0, |report| report.turn.closes == round);
            assert!(matches!(
                report.machine.told.last(),
                Some(Told::Closed { cause: CloseCause::Asked, .. })
            ));
        }
        assert_clean(&bench);
        bench.stop();
    }
}

/// More submissions at once than the queue holds, taken by a thread that is only told of them.
#[test]
fn a_polled_queue_that_is_full_loses_nothing() {
    let mode = Mode::PolledSubmission { core: None };
    let bench = Bench::start(Sizes { mode, submissions: 32, accept_limit: 60, ..Sizes::default() });
    let mut streams: Vec<_> = (0..48).map(|_| bench.dial()).collect();
    for round in 0..20 {
        for (index, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&[pattern(index + round); 64]).unwrap();
        }
        for (index, stream) in streams.iter_mut().enumerate() {
            let mut back = [0; 64];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, [pattern(index + round); 64]);
        }
    }
    assert_clean(&bench);
    bench.stop();
}

#[test]
fn a_panic_in_a_polled_mode_costs_the_connections_only() {
    let bench =
        Bench::start(Sizes { mode: Mode::PolledSubmission { core: None }, ..Sizes::default() });
    let mut stream = bench.dial();
    stream.write_all(b"PANIC").unwrap();
    let (_, event) = bench.events.recv_timeout(PATIENCE).unwrap();
    let event = match event {
        WorkerEvent::Started { .. } => bench.events.recv_timeout(PATIENCE).unwrap().1,
        other => other,
    };
    assert!(matches!(event, WorkerEvent::Panicked { .. }), "{event:?}");
    assert!(stream.read(&mut [0]).is_err() || stream.read(&mut [0]).unwrap() == 0);
    let mut again = bench.dial();
    echoed(&mut again, b"alive");
    bench.stop();
}

/// The chunk must stay until the peer has it, however long that takes, and must come home then.
#[test]
fn zero_copy_sends_to_a_slow_reader_arrive_whole_and_in_order() {
    const BYTES: usize = 8 * 1024 * 1024;
    for mode in [Mode::Deferred, Mode::PolledSubmission { core: None }] {
        let bench = Bench::start(Sizes { mode, zero_copy_from: Some(4096), ..Sizes::default() });
        let mut stream = bench.dial();
        let told = bench.report_when(0, |report| !report.machine.told.is_empty()).machine.told;
        let conn = conn_of(&told);
        bench.wish(0, vec![Wish::Send { conn, bytes: BYTES, close: true }]);
        wait_until_stuck(&bench);
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert_eq!(back.len(), BYTES);
        assert!(back.iter().enumerate().all(|(index, &byte)| byte == pattern(index)));
        assert_clean(&bench);
        let ring = bench.report(0).ring;
        assert!(ring.zero_copy_sends >= (BYTES / (128 * 1024)) as u64, "{ring:?}");
        assert!(ring.zero_copy_copied <= ring.zero_copy_sends, "{ring:?}");
        bench.stop();
    }
}

/// A small send is copied; a peer that goes away while the kernel reads our memory ends in one close.
#[test]
fn zero_copy_begins_at_its_bound_and_ends_with_the_peer() {
    let bench = Bench::start(Sizes { zero_copy_from: Some(4096), ..Sizes::default() });
    let mut stream = bench.dial();
    echoed(&mut stream, &[b'x'; 1000]);
    let report = bench.report_when(0, |report| report.machine.bytes_out == 0);
    assert_eq!(report.ring.zero_copy_sends, 0);
    let conn = conn_of(&report.machine.told);
    bench.wish(0, vec![Wish::Send { conn, bytes: 24 * 1024 * 1024, close: false }]);
    wait_until_stuck(&bench);
    drop(stream);
    bench.report_when(0, |report| report.turn.closes == 1);
    assert_clean(&bench);
    bench.stop();
}

#[test]
fn a_worker_stops_while_the_kernel_reads_its_memory() {
    let bench = Bench::start(Sizes { zero_copy_from: Some(4096), ..Sizes::default() });
    let _stream = bench.dial();
    let conn =
        conn_of(&bench.report_when(0, |report| !report.machine.told.is_empty()).machine.told);
    bench.wish(0, vec![Wish::Send { conn, bytes: 24 * 1024 * 1024, close: false }]);
    wait_until_stuck(&bench);
    bench.workers[0].send(Command::Drain { deadline: monotonic() }).unwrap();
    bench.stop();
}

#[test]
fn a_thread_on_a_core_that_is_not_there_is_a_fault_with_a_cure() {
    let plan = RingPlan::new(0, 4, 4, Arc::new(RingDirectory::new(1))).unwrap();
    let mode = Mode::PolledSubmission { core: Some(60_000) };
    let Err(fault) = KernelRing::new(RingPlan { mode, ..plan }) else { panic!("no such core") };
    assert!(fault.what.contains("kernel thread takes"), "{fault}");
    assert!(fault.cause.contains("no such core") && fault.cure.contains("deferred"), "{fault}");
}
