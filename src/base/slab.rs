//! A slab of fixed capacity with generations: the Machine's table of connections.
//! Slots below `accepted` are dictated by the ring (accepted connections), those above are chosen here (dialled).
//! Owns its entries. Never grows after `new`.
//! Invariant: a `ConnId` finds its entry only during the life that it was made for.

use super::machine::ConnId;

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    accepted: u32,
    own_free: Vec<u32>,
    live_accepted: u32,
    live_own: u32,
}

impl<T> Slab<T> {
    /// Capacity for `accepted` slots given by the ring and `own` slots chosen here.
    pub fn new(accepted: u32, own: u32) -> Self {
        let total = accepted.checked_add(own).expect("slots fit in 32 bits");
        let mut entries = Vec::with_capacity(total as usize);
        entries.resize_with(total as usize, || Entry { generation: 0, value: None });
        Slab {
            entries,
            accepted,
            own_free: (accepted..total).rev().collect(),
            live_accepted: 0,
            live_own: 0,
        }
    }

    /// Begins a life in the slot that the ring gave. `None` when the slot is out of range or still taken.
    pub fn insert_at(&mut self, slot: u32, value: T) -> Option<ConnId> {
        if slot >= self.accepted {
            return None;
        }
        let entry = &mut self.entries[slot as usize];
        if entry.value.is_some() {
            return None;
        }
        entry.value = Some(value);
        self.live_accepted += 1;
        Some(ConnId { slot, generation: entry.generation })
    }

    /// Begins a life in a slot of our own. `None` when all are taken.
    pub fn insert(&mut self, value: T) -> Option<ConnId> {
        let slot = self.own_free.pop()?;
        let entry = &mut self.entries[slot as usize];
        assert!(entry.value.is_none());
        entry.value = Some(value);
        self.live_own += 1;
        Some(ConnId { slot, generation: entry.generation })
    }

    /// Ends a life; the generation moves on, so that every older `ConnId` of the slot finds nothing.
    pub fn remove(&mut self, conn: ConnId) -> Option<T> {
        let entry = self.entries.get_mut(conn.slot as usize)?;
        if entry.generation != conn.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        if conn.slot >= self.accepted {
            self.own_free.push(conn.slot);
            self.live_own -= 1;
        } else {
            self.live_accepted -= 1;
        }
        Some(value)
    }

    pub fn get(&self, conn: ConnId) -> Option<&T> {
        let entry = self.entries.get(conn.slot as usize)?;
        if entry.generation == conn.generation { entry.value.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut T> {
        let entry = self.entries.get_mut(conn.slot as usize)?;
        if entry.generation == conn.generation { entry.value.as_mut() } else { None }
    }

    /// The life that is in a slot now, if any.
    pub fn life(&self, slot: u32) -> Option<ConnId> {
        let entry = self.entries.get(slot as usize)?;
        entry.value.as_ref().map(|_| ConnId { slot, generation: entry.generation })
    }

    /// All lives, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        self.entries.iter().enumerate().filter_map(|(slot, entry)| {
            let conn = ConnId { slot: slot as u32, generation: entry.generation };
            entry.value.as_ref().map(|value| (conn, value))
        })
    }

    /// The live entries of at most `count` slots from `first` on.
    pub fn part(&self, first: u32, count: u32) -> impl Iterator<Item = (ConnId, &T)> {
        let entries = self.entries.iter().enumerate().skip(first as usize).take(count as usize);
        entries.filter_map(|(slot, entry)| {
            let conn = ConnId { slot: slot as u32, generation: entry.generation };
            entry.value.as_ref().map(|value| (conn, value))
        })
    }

    pub fn live_accepted(&self) -> u32 {
        self.live_accepted
    }

    pub fn live_own(&self) -> u32 {
        self.live_own
    }

    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_finds_nothing_after_its_life() {
        let mut slab = Slab::new(2, 1);
        let first = slab.insert_at(1, "first").unwrap();
        assert!(slab.insert_at(1, "taken").is_none());
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert_at(1, "second").unwrap();
        assert_ne!(first, second);
        assert!(slab.get(first).is_none() && slab.remove(first).is_none());
        assert_eq!(slab.get(second), Some(&"second"));
    }

    #[test]
    fn own_slots_are_above_the_accepted_ones_and_end() {
        let mut slab = Slab::new(2, 1);
        let own = slab.insert(7).unwrap();
        assert_eq!(own.slot, 2);
        assert!(slab.insert(8).is_none());
        assert!(slab.insert_at(2, 9).is_none());
        slab.remove(own);
        assert_eq!(slab.insert(8).unwrap().generation, 1);
    }
}
