//! How many copies of requests (`mirror=`) a worker has under way, and how much they hold: bounded, so
//! that a slow mirror costs no memory.

use std::cell::Cell;
use std::rc::Rc;

/// Copies that one worker has under way, at most.
const COPIES_MAX: usize = 256;
/// Bytes of their heads and bodies, at most.
const BYTES_MAX: usize = 8 << 20;
/// The copies of one worker that are under way.
#[derive(Debug, Default)]
pub struct Copies {
    count: Cell<usize>,
    bytes: Cell<usize>,
}

/// The place of one among them.
#[derive(Debug)]
pub struct Place {
    copies: Rc<Copies>,
    bytes: usize,
}

impl Copies {
    /// A place for one of so many bytes, if there is room.
    #[must_use]
    pub fn enter(self: &Rc<Self>, bytes: usize) -> Option<Place> {
        let (count, held) = (self.count.get() + 1, self.bytes.get() + bytes);
        if count > COPIES_MAX || held > BYTES_MAX {
            return None;
        }
        self.count.set(count);
        self.bytes.set(held);
        Some(Place {
            copies: Rc::clone(self),
            bytes,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let copies = &self.copies;
        copies.count.set(copies.count.get() - 1);
        copies.bytes.set(copies.bytes.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_under_way_are_bounded_in_number_and_bytes() {
        let copies = Rc::<Copies>::default();
        let mut places: Vec<Place> = (0..COPIES_MAX)
            .map(|_| copies.enter(1000).unwrap())
            .collect();
        assert!(copies.enter(0).is_none(), "too many");
        places.pop();
        assert!(copies.enter(BYTES_MAX).is_none(), "too much");
        assert!(copies.enter(1000).is_some());
        places.clear();
        assert_eq!((copies.count.get(), copies.bytes.get()), (0, 0));
        let all = copies.enter(BYTES_MAX);
        assert!(all.is_some() && copies.enter(1).is_none());
    }
}
