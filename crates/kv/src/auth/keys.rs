//! Sets of keys as disjoint intervals, and whether several of them together cover what is wanted.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::command::{AuthPermission, AuthVerb, EtcdKeys};

/// The first key there is.
const FIRST: &[u8] = &[0];

/// Disjoint intervals that do not touch, in order; an empty end is no end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeySet(Vec<(Bytes, Bytes)>);

/// The keys somebody wants to touch.
pub(crate) enum Wanted<'a> {
    One(&'a [u8]),
    /// From the first to before the second; an empty second is no end.
    Interval(&'a [u8], &'a [u8]),
}

impl<'a> Wanted<'a> {
    pub fn of(keys: &'a EtcdKeys) -> Self {
        match keys {
            EtcdKeys::One(key) => Self::One(key),
            // No key is empty, so that whoever may touch all keys may touch these.
            EtcdKeys::Interval(start, end) if start.is_empty() => Self::Interval(FIRST, end),
            EtcdKeys::Interval(start, end) => Self::Interval(start, end),
        }
    }
}

impl KeySet {
    /// What permissions, sorted by key, allow to read and to write.
    pub fn of(permissions: &[AuthPermission]) -> (Self, Self) {
        let (mut reads, mut writes) = (Self::default(), Self::default());
        for permission in permissions {
            let (start, end) = match permission.keys() {
                EtcdKeys::One(key) => (key.clone(), after(&key)),
                EtcdKeys::Interval(start, end) => (start, end),
            };
            match AuthVerb::try_from(permission.verb) {
                Ok(AuthVerb::Read) => reads.add(start, end),
                Ok(AuthVerb::Write) => writes.add(start, end),
                Ok(AuthVerb::ReadWrite) => {
                    reads.add(start.clone(), end.clone());
                    writes.add(start, end);
                }
                Err(_) => {}
            }
        }
        (reads, writes)
    }

    /// Adds an interval that starts at or behind the start of the last one.
    fn add(&mut self, start: Bytes, end: Bytes) {
        if !end.is_empty() && end <= start {
            return;
        }
        match self.0.last_mut() {
            Some((_, last)) if last.is_empty() || *last >= start => {
                if compare_ends(last, &end) == Ordering::Less {
                    *last = end;
                }
            }
            _ => self.0.push((start, end)),
        }
    }

    /// The end of the interval that has `key`.
    fn reach(&self, key: &[u8]) -> Option<&[u8]> {
        let behind = self.0.partition_point(|(start, _)| start.as_ref() <= key);
        let (_, end) = self.0.get(behind.checked_sub(1)?)?;
        (end.is_empty() || key < end.as_ref()).then_some(end)
    }
}

/// Whether the sets together have every key that is wanted. An interval without keys is covered
/// where its first key is.
pub(crate) fn cover(sets: &[&KeySet], wanted: &Wanted<'_>) -> bool {
    let (mut from, to) = match *wanted {
        Wanted::One(key) => return sets.iter().any(|set| set.reach(key).is_some()),
        Wanted::Interval(start, end) => (start, end),
    };
    // Every turn leaves an interval behind, and there are only so many.
    loop {
        let reaches = sets.iter().filter_map(|set| set.reach(from));
        let Some(furthest) = reaches.max_by(|a, b| compare_ends(a, b)) else { return false };
        if compare_ends(furthest, to) != Ordering::Less {
            return true;
        }
        from = furthest;
    }
}

/// Orders the ends of intervals: an empty one is behind all others.
fn compare_ends(a: &[u8], b: &[u8]) -> Ordering {
    a.is_empty().cmp(&b.is_empty()).then_with(|| a.cmp(b))
}

/// The key right behind a key.
fn after(key: &[u8]) -> Bytes {
    [key, FIRST].concat().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All keys of up to three letters: with ends of up to two, every gap has one of them.
    fn keys() -> Vec<Bytes> {
        let mut all: Vec<Vec<u8>> = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..3 {
            let until = all.len();
            for at in from..until {
                let stem = all[at].clone();
                all.extend(b"\0ab".iter().map(|letter| [&stem[..], &[*letter]].concat()));
            }
            from = until;
        }
        all.into_iter().skip(1).map(Bytes::from).collect()
    }

    fn short() -> impl Strategy<Value = Bytes> {
        let letter = prop_oneof![Just(0u8), Just(b'a'), Just(b'b')];
        prop::collection::vec(letter, 1..3).prop_map(Bytes::from)
    }

    fn end() -> impl Strategy<Value = Bytes> {
        prop_oneof![1 => Just(Bytes::new()), 1 => Just(Bytes::from_static(b"\0")), 4 => short()]
    }

    fn permissions() -> impl Strategy<Value = Vec<AuthPermission>> {
        let permission = (0..3, short(), end());
        let permission =
            permission.prop_map(|(verb, key, range_end)| AuthPermission { verb, key, range_end });
        prop::collection::vec(permission, 0..6).prop_map(|mut all| {
            all.sort_by(|a, b| (&a.key, &a.range_end).cmp(&(&b.key, &b.range_end)));
            all
        })
    }

    fn has(keys: &EtcdKeys, key: &Bytes) -> bool {
        match keys {
            EtcdKeys::One(one) => one == key,
            EtcdKeys::Interval(start, end) => start <= key && (end.is_empty() || key < end),
        }
    }

    proptest! {
        #[test]
        fn what_is_covered_is_covered_key_by_key(
            roles in prop::collection::vec(permissions(), 0..4),
            key in short(),
            range_end in end(),
            writes in any::<bool>(),
        ) {
            let wanted = EtcdKeys::of(&key, &range_end);
            let asked: Vec<Bytes> = keys().into_iter().filter(|key| has(&wanted, key)).collect();
            prop_assume!(!asked.is_empty());
            let verb = if writes { AuthVerb::Write } else { AuthVerb::Read } as i32;
            let allowed = |key: &Bytes| roles.iter().flatten().any(|permission| {
                let allows = [verb, AuthVerb::ReadWrite as i32].contains(&permission.verb);
                allows && has(&permission.keys(), key)
            });
            let sets: Vec<_> = roles.iter().map(|role| KeySet::of(role)).collect();
            let sets: Vec<_> = sets.iter().map(|(r, w)| if writes { w } else { r }).collect();
            prop_assert_eq!(cover(&sets, &Wanted::of(&wanted)), asked.iter().all(allowed));
        }
    }

    #[test]
    fn intervals_that_touch_are_one_and_others_are_not() {
        let permission = |key: &'static str, end: &'static str| AuthPermission {
            verb: AuthVerb::Read.into(),
            key: key.into(),
            range_end: end.into(),
        };
        let (reads, writes) = KeySet::of(&[
            permission("a", "c"),
            permission("b", ""),
            permission("c", "e"),
            permission("f", "g"),
        ]);
        assert_eq!(writes, KeySet::default());
        let expected = [("a", "e"), ("f", "g")].map(|(a, b)| (Bytes::from(a), Bytes::from(b)));
        assert_eq!(reads.0, expected);
        let covers = |start, end| cover(&[&reads], &Wanted::Interval(start, end));
        assert!(covers(b"a", b"e") && !covers(b"a", b"f") && !covers(b"a", b""));
        assert!(covers(b"b", b"b") && !covers(b"e", b"e"), "an interval without keys");
    }

    #[test]
    fn whoever_may_touch_all_keys_may_touch_those_from_the_empty_one_on() {
        let all = AuthPermission {
            verb: AuthVerb::ReadWrite.into(),
            key: "\0".into(),
            range_end: "\0".into(),
        };
        let (reads, writes) = KeySet::of(&[all]);
        let wanted = EtcdKeys::Interval(Bytes::new(), Bytes::new());
        assert!(cover(&[&reads], &Wanted::of(&wanted)));
        assert!(cover(&[&writes], &Wanted::of(&wanted)));
    }
}
