//! Fixed-capacity byte vectors for the send side, moved by value, and the pool that they come home to.
//! Owns the bytes of what is sent. Never reallocates a chunk.
//! Invariant: `sent <= bytes.len() <= capacity`; bytes do not change while a submission owns the chunk.

/// Capacity of a small chunk: one usual message or a few responses.
pub const SMALL_BYTES: usize = 4 * 1024;
/// Capacity of a large chunk: four TLS records of 16 KiB with what each adds.
pub const LARGE_BYTES: usize = 64 * 1024 + 4 * 64;

/// Bytes on their way out.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
}

impl Chunk {
    fn with_capacity(capacity: usize) -> Self {
        Chunk { bytes: Vec::with_capacity(capacity), sent: 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the kernel has not taken yet.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// The kernel has taken `count` bytes of `unsent`.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.sent);
        self.sent += count;
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// Appends `piece`, which must fit: the caller has asked `room`.
    pub fn push(&mut self, piece: &[u8]) {
        assert!(piece.len() <= self.room());
        self.bytes.extend_from_slice(piece);
    }

    /// Appends what `write` puts into a buffer of `len` bytes; `write` says how many it used.
    pub fn push_with(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> usize) {
        assert!(len <= self.room());
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        let used = write(&mut self.bytes[start..]);
        assert!(used <= len);
        self.bytes.truncate(start + used);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }
}

/// Chunks at rest, last home first out, so that the next one is warm in the cache.
#[derive(Debug)]
pub struct ChunkPool {
    small: Vec<Chunk>,
    large: Vec<Chunk>,
    bytes_out: usize,
    bytes_limit: usize,
    allocated: u64,
}

impl ChunkPool {
    /// A pool whose chunks outside may take `bytes_limit` bytes of capacity together.
    pub fn new(bytes_limit: usize) -> Self {
        ChunkPool {
            small: Vec::with_capacity(1024),
            large: Vec::with_capacity(64),
            bytes_out: 0,
            bytes_limit,
            allocated: 0,
        }
    }

    /// A chunk with room for `len` bytes; `None` when `len` exceeds a large chunk or the pool's limit is reached.
    pub fn take(&mut self, len: usize) -> Option<Chunk> {
        if len > LARGE_BYTES {
            return None;
        }
        let capacity = if len <= SMALL_BYTES { SMALL_BYTES } else { LARGE_BYTES };
        if self.bytes_out + capacity > self.bytes_limit {
            return None;
        }
        let home = if capacity == SMALL_BYTES { &mut self.small } else { &mut self.large };
        let chunk = home.pop().unwrap_or_else(|| {
            self.allocated += 1;
            Chunk::with_capacity(capacity)
        });
        self.bytes_out += chunk.capacity();
        Some(chunk)
    }

    /// A chunk comes home.
    pub fn give(&mut self, mut chunk: Chunk) {
        chunk.clear();
        assert!(chunk.capacity() <= self.bytes_out);
        self.bytes_out -= chunk.capacity();
        if chunk.capacity() >= LARGE_BYTES {
            self.large.push(chunk);
        } else {
            self.small.push(chunk);
        }
    }

    /// Capacity of all chunks outside; 0 when all are home.
    pub fn bytes_out(&self) -> usize {
        self.bytes_out
    }

    /// Chunks ever allocated: flat after warm-up.
    pub fn allocated(&self) -> u64 {
        self.allocated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_home_empty_and_is_used_again() {
        let mut pool = ChunkPool::new(10 * LARGE_BYTES);
        let mut chunk = pool.take(10).unwrap();
        chunk.push(b"abc");
        chunk.advance(2);
        assert_eq!(chunk.unsent(), b"c");
        pool.give(chunk);
        assert_eq!(pool.bytes_out(), 0);
        assert!(pool.take(10).unwrap().is_empty());
        assert_eq!(pool.allocated(), 1);
    }

    #[test]
    fn the_pool_ends_at_its_limit_and_at_a_large_chunk() {
        let mut pool = ChunkPool::new(LARGE_BYTES + SMALL_BYTES);
        assert!(pool.take(LARGE_BYTES + 1).is_none());
        let large = pool.take(SMALL_BYTES + 1).unwrap();
        let _small = pool.take(SMALL_BYTES).unwrap();
        assert!(pool.take(1).is_none());
        pool.give(large);
        assert!(pool.take(1).is_some());
    }
}
