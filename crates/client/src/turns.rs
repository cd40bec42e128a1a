//! A queue for a number of slots, kept in ordinary keys: what semaphores and elections are made of.
//!
//! ```text
//! semaphore/{NAME}/places/<lease id>   how many slots there are     one per party
//! semaphore/{NAME}/slots/<number>      the party's text             one per party whose turn it is
//! ```
//!
//! All keys share a `{tag}` and so a range; both keys of a party are bound to its lease, so they
//! vanish in one revision when it goes or falls silent. The order of arrival is the order of the
//! places' create revisions. Whoever has fewer places before its own than there are slots takes a
//! free slot, in a transaction that proves its own place and the slot's freedom; the revision of
//! that transaction is the fencing token. Places before one's own can only become fewer, so nobody
//! overtakes, and there is a free slot for everyone whose turn it is.
//!
//! The number of slots is what the parties agree on: who finds a place before its own that says
//! another number goes away. So nothing is left behind by a queue nobody stands in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use holdfast_model::limits::SCAN_PAGE_KEYS_MAX;
use holdfast_model::{LeaseId, Revision};
use holdfast_runtime::{Deadline, Handle};

use crate::client::Client;
use crate::error::Error;
use crate::lease::{KeepAlive, Lease};
use crate::operation::{Compare, Operation};
use crate::streams::{Pauses, shared_position};
use crate::types::Entry;

/// Most slots of a queue.
pub(crate) const SLOTS_MAX: u32 = 1_000;
/// Most parties that wait or hold; bounds what one look reads.
const PARTIES_MAX: usize = 2_000;
/// Longest name: with everything around it, it fits the key every configuration guarantees.
const NAME_BYTES_MAX: usize = 200;
/// Longest text of a party, as of a lock.
const VALUE_BYTES_MAX: usize = 1_024;
/// Whoever has gone is told to the range for this long; the lease ends by itself otherwise.
const GIVE_UP_MAX: Duration = Duration::from_secs(2);
/// Whoever gives up waiting waits this long for the range to know it.
const GIVE_UP_MIN: Duration = Duration::from_millis(250);

/// Where the keys of a queue lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    base: String,
}

impl Place {
    /// The keys of the queue `kind` called `name`; a name with a `{tag}` keeps it.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::TooLarge`]: a name that cannot be used.
    pub(crate) fn new(kind: &str, name: &[u8]) -> Result<Self, Error> {
        if name.len() > NAME_BYTES_MAX {
            let bound = NAME_BYTES_MAX as u64;
            let message = format!("name of a {kind}: {bound} bytes, given {}", name.len());
            return Err(Error::TooLarge { message, bound });
        }
        let text = std::str::from_utf8(name).ok().filter(|text| !text.is_empty());
        let invalid = |why| Error::Invalid(format!("name of a {kind}: {why}"));
        let text = text.ok_or_else(|| invalid("UTF-8, not empty"))?;
        let base = match shared_position(name) {
            Some(_) => format!("{kind}/{text}/"),
            None => format!("{kind}/{{{text}}}/"),
        };
        match shared_position(base.as_bytes()) {
            Some(_) => Ok(Self { base }),
            None => Err(invalid("must not begin with }")),
        }
    }

    fn place(&self, lease: LeaseId) -> String {
        format!("{}places/{lease}", self.base)
    }

    /// Key of a slot.
    pub(crate) fn slot(&self, number: u32) -> String {
        format!("{}slots/{number}", self.base)
    }

    /// What a key of this queue is.
    fn parse(&self, key: &[u8]) -> Option<Part> {
        let rest = std::str::from_utf8(key.strip_prefix(self.base.as_bytes())?).ok()?;
        if let Some(lease) = rest.strip_prefix("places/") {
            return u64::from_str_radix(lease, 16).ok().map(|id| Part::Place(LeaseId(id)));
        }
        rest.strip_prefix("slots/")?.parse().ok().map(Part::Slot)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Place(LeaseId),
    Slot(u32),
}

/// A queue as it is at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    revision: Revision,
    /// In order of arrival: when, who, and how many slots it takes there to be.
    places: Vec<(Revision, LeaseId, u32)>,
    /// Who has which slot.
    pub(crate) slots: BTreeMap<u32, Entry>,
}

/// How a party stands in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Its lease has ended.
    Gone,
    /// These are before it.
    Behind(BTreeSet<LeaseId>),
    /// It is its turn, and this slot is for it.
    Turn(u32),
}

impl View {
    fn add(&mut self, place: &Place, entry: Entry) {
        match place.parse(&entry.key) {
            Some(Part::Place(lease)) => {
                let text = std::str::from_utf8(&entry.value).ok();
                let slots = text.and_then(|text| text.parse().ok()).unwrap_or_default();
                self.places.push((entry.create_revision, lease, slots));
            }
            Some(Part::Slot(number)) => drop(self.slots.insert(number, entry)),
            None => {}
        }
    }

    /// How many slots there are, as whoever came first has it; 0 where nobody is there.
    pub(crate) fn slots_max(&self) -> u32 {
        self.places.first().map_or(0, |(_, _, slots)| *slots)
    }

    /// How many wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        let holds = |lease| self.slots.values().any(|slot| slot.lease == Some(lease));
        self.places.iter().filter(|(_, lease, _)| !holds(*lease)).count()
    }

    /// How the party of `lease` stands, who takes it that there are `slots`.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`]: who came before has it otherwise. [`Error::Overloaded`].
    fn standing(&self, lease: LeaseId, slots: u32) -> Result<Standing, Error> {
        let Some(rank) = self.places.iter().position(|(_, other, _)| *other == lease) else {
            return Ok(Standing::Gone);
        };
        let before = self.places.get(..rank).unwrap_or_default();
        if let Some((_, _, theirs)) = before.iter().find(|(_, _, theirs)| *theirs != slots) {
            let text = format!("{theirs} permits are what others have it, {slots} were asked for");
            return Err(Error::FailedPrecondition(text));
        }
        if rank >= PARTIES_MAX {
            let message = format!("{PARTIES_MAX} wait or hold already");
            return Err(Error::Overloaded { message, retry_after: GIVE_UP_MAX });
        }
        let holders: BTreeSet<_> = self.slots.values().filter_map(|slot| slot.lease).collect();
        // Those whose turn it is take the free slots in order, so that they do not collide.
        let turn = before.iter().filter(|(_, other, _)| !holders.contains(other)).count();
        let free = (0..slots).filter(|number| !self.slots.contains_key(number)).nth(turn);
        Ok(match free {
            Some(slot) if rank < slots as usize => Standing::Turn(slot),
            _ => Standing::Behind(before.iter().map(|(_, other, _)| *other).collect()),
        })
    }
}

/// A queue, and what a party brings to it.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    pub(crate) client: Client,
    pub(crate) place: Place,
    pub(crate) slots: u32,
    pub(crate) ttl: Duration,
    pub(crate) value: Bytes,
}

impl Turns {
    /// Takes a slot, or waits for its turn for as long as `patience`.
    ///
    /// # Errors
    /// [`Error::Deadline`]: it was never its turn. [`Error::Unknown`]: what was taken is given
    /// back in the background. Otherwise as [`View::standing`] and any call.
    pub(crate) async fn take(self, patience: Duration) -> Result<Turn, Error> {
        self.check()?;
        let deadline = Deadline::after(patience);
        let late = |last: &str| Error::Deadline { deadline: patience, last: last.to_owned() };
        loop {
            let claim = deadline.limit(self.queue()).await;
            let claim = claim.unwrap_or_else(|_| Err(late("no answer to queueing")))?;
            let turn = deadline.limit(self.wait_for_turn(&claim)).await;
            match turn.unwrap_or_else(|_| Err(late("others held everything"))) {
                Ok(Some((slot, token))) => return Ok(Turn { claim, slot, token }),
                // Silent for too long: at the end of the queue again.
                Ok(None) => {}
                Err(error) => {
                    claim.give_up().await;
                    return Err(error);
                }
            }
        }
    }

    /// Takes a slot if it is this party's turn at once, else says how the queue is.
    ///
    /// # Errors
    /// As [`Turns::take`].
    pub(crate) async fn try_take(self) -> Result<Result<Turn, View>, Error> {
        self.check()?;
        loop {
            let claim = self.queue().await?;
            let mut view = self.look().await?;
            match view.standing(claim.lease.id(), self.slots)? {
                Standing::Gone => {}
                Standing::Behind(_) => {
                    view.places.retain(|(_, lease, _)| *lease != claim.lease.id());
                    claim.give_up().await;
                    return Ok(Err(view));
                }
                Standing::Turn(slot) => match self.seize(&claim, slot).await? {
                    Some(token) => return Ok(Ok(Turn { claim, slot, token })),
                    // Someone else saw another queue and took it: there may be a free one yet.
                    None => claim.give_up().await,
                },
            }
        }
    }

    /// The queue as it is.
    ///
    /// # Errors
    /// As any read.
    pub(crate) async fn look(&self) -> Result<View, Error> {
        let mut scan = self.client.scan(self.place.base.clone()).start()?;
        let mut view = View::default();
        for _ in 0..=(PARTIES_MAX + SLOTS_MAX as usize) / SCAN_PAGE_KEYS_MAX {
            let Some(page) = scan.next_page().await? else { break };
            if let Some(point) = page.points.first() {
                view.revision = point.revision;
            }
            page.entries.into_iter().for_each(|entry| view.add(&self.place, entry));
        }
        view.places.sort_unstable();
        Ok(view)
    }

    fn check(&self) -> Result<(), Error> {
        if self.slots == 0 || self.slots > SLOTS_MAX {
            let text = format!("permits: 1 to {SLOTS_MAX}, given {}", self.slots);
            return Err(Error::Invalid(text));
        }
        if self.value.len() > VALUE_BYTES_MAX {
            let bound = VALUE_BYTES_MAX as u64;
            let message = format!("value: {bound} bytes, given {}", self.value.len());
            return Err(Error::TooLarge { message, bound });
        }
        Ok(())
    }

    /// Waits for the turn of `claim` and takes a slot; `None` where its lease has ended.
    async fn wait_for_turn(&self, claim: &Claim) -> Result<Option<(u32, u64)>, Error> {
        let mut pauses = Pauses::default();
        // The lease bounds this: without answers it is lost after its TTL.
        while !claim.alive.is_lost() {
            pauses.wait(&self.client).await;
            match self.step(claim).await {
                Ok(Step::Taken(slot, token)) => return Ok(Some((slot, token))),
                Ok(Step::Gone) => break,
                Ok(Step::Again) => pauses.reset(),
                Err(error @ Error::Overloaded { .. }) => return Err(error),
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn step(&self, claim: &Claim) -> Result<Step, Error> {
        let view = self.look().await?;
        match view.standing(claim.lease.id(), self.slots)? {
            Standing::Gone => Ok(Step::Gone),
            Standing::Behind(before) => {
                tokio::select! {
                    () = claim.alive.lost() => Ok(Step::Gone),
                    step = self.wait(claim, before, view.revision) => step,
                }
            }
            Standing::Turn(slot) => Ok(match self.seize(claim, slot).await? {
                Some(token) => Step::Taken(slot, token),
                None => Step::Again,
            }),
        }
    }

    /// Takes a place at the end of the queue.
    async fn queue(&self) -> Result<Claim, Error> {
        let lease = self.client.grant_lease(self.place.base.clone(), self.ttl).await?;
        let claim = Claim { alive: lease.keep_alive(), lease, is_open: true };
        let (key, slots) = (self.place.place(claim.lease.id()), self.slots.to_string());
        match self.client.put(key, slots).lease(claim.lease.id()).await {
            // A lease that ended at once is found out by the look that follows.
            Ok(_) | Err(Error::LeaseNotFound(_)) => Ok(claim),
            Err(error) => Err(error),
        }
    }

    /// Waits until so many have gone that it may be this party's turn.
    async fn wait(
        &self,
        claim: &Claim,
        mut before: BTreeSet<LeaseId>,
        seen: Revision,
    ) -> Result<Step, Error> {
        let watch = self.client.watch_prefix(self.place.base.clone()).no_puts();
        let started = watch.from_revision(Revision(seen.0 + 1)).start().await;
        let mut watch = match started {
            Ok(watch) => watch,
            Err(Error::Compacted { .. } | Error::FutureRevision { .. }) => return Ok(Step::Again),
            Err(error) => return Err(error),
        };
        loop {
            let batch = match watch.next().await {
                Ok(batch) => batch,
                Err(Error::Compacted { .. }) => return Ok(Step::Again),
                Err(error) => return Err(error),
            };
            for event in batch.events {
                match self.place.parse(&event.entry.key) {
                    Some(Part::Place(lease)) if lease == claim.lease.id() => return Ok(Step::Gone),
                    Some(Part::Place(lease)) => drop(before.remove(&lease)),
                    Some(Part::Slot(_)) | None => {}
                }
            }
            if before.len() < self.slots as usize {
                return Ok(Step::Again);
            }
        }
    }

    /// Takes a slot; `None` where it is taken, or the place is gone.
    async fn seize(&self, claim: &Claim, slot: u32) -> Result<Option<u64>, Error> {
        let (lease, slot) = (claim.lease.id(), self.place.slot(slot));
        let taking = self
            .client
            .txn()
            .when(Compare::exists(self.place.place(lease)))
            .when(Compare::missing(slot.clone()))
            .then(Operation::put(slot, self.value.clone()).lease(lease));
        match taking.await {
            Ok(answer) => Ok(answer.succeeded.then_some(answer.revision.0)),
            Err(Error::LeaseNotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What came of one try.
enum Step {
    Taken(u32, u64),
    /// The place in the queue is lost.
    Gone,
    Again,
}

/// A place in the queue; given up when dropped, in the background.
#[derive(Debug)]
struct Claim {
    lease: Lease,
    alive: KeepAlive,
    is_open: bool,
}

impl Claim {
    /// Leaves the queue, and waits a moment for it to be known.
    async fn give_up(mut self) {
        let gone = self.lease.clone().revoke_within(GIVE_UP_MIN).await;
        self.is_open = !matches!(gone, Ok(_) | Err(Error::LeaseNotFound(_)));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Outside of a runtime nothing can be sent; the TTL does it then.
        if !self.is_open || Handle::try_current().is_err() {
            return;
        }
        let lease = self.lease.clone();
        self.lease.client().inner.farewells.spawn(async move {
            if let Err(error) = lease.revoke_within(GIVE_UP_MAX).await {
                tracing::debug!(%error, "a place in a queue was left to its TTL");
            }
        });
    }
}

/// A slot that is held; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    claim: Claim,
    pub(crate) slot: u32,
    pub(crate) token: u64,
}

impl Turn {
    pub(crate) fn is_lost(&self) -> bool {
        self.claim.alive.is_lost()
    }

    pub(crate) async fn lost(&self) {
        self.claim.alive.lost().await;
    }

    pub(crate) async fn release(mut self) -> Result<(), Error> {
        match self.claim.lease.clone().revoke().await {
            Ok(_) | Err(Error::LeaseNotFound(_)) => {
                self.claim.is_open = false;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place::new("semaphore", b"pool").unwrap()
    }

    fn entry(key: String, lease: u64, revision: u64, value: &str) -> Entry {
        Entry {
            key: key.into(),
            value: Bytes::copy_from_slice(value.as_bytes()),
            revision: Revision(revision),
            create_revision: Revision(revision),
            version: 1,
            lease: Some(LeaseId(lease)),
            expires_at_ms: None,
        }
    }

    /// Parties 1, 2, … in order of arrival, and the slots some of them have.
    fn view(permits: &[&str], slots: &[(u32, u64)]) -> View {
        let mut view = View::default();
        for (lease, permits) in (1..).zip(permits) {
            let key = place().place(LeaseId(lease));
            view.add(&place(), entry(key, lease, lease + 1, permits));
        }
        for (slot, lease) in slots {
            view.add(&place(), entry(place().slot(*slot), *lease, 50 + lease, ""));
        }
        view
    }

    #[test]
    fn every_key_of_a_queue_lies_at_one_position() {
        for name in ["pool", "{tenant}/pool", "a}b", "a{b", "é"] {
            let place = Place::new("semaphore", name.as_bytes()).unwrap();
            let at = holdfast_model::position(place.base.as_bytes());
            for key in [place.place(LeaseId(7)), place.slot(3)] {
                assert_eq!(holdfast_model::position(key.as_bytes()), at, "{name}: {key}");
            }
            assert_eq!(place.parse(place.slot(3).as_bytes()), Some(Part::Slot(3)));
            let key = place.place(LeaseId(u64::MAX));
            assert_eq!(place.parse(key.as_bytes()), Some(Part::Place(LeaseId(u64::MAX))));
            assert!(place.parse(b"semaphore/{other}/slots/1").is_none());
        }
        let tagged = Place::new("semaphore", b"{tenant}/pool").unwrap();
        assert_eq!(
            holdfast_model::position(tagged.base.as_bytes()),
            holdfast_model::position(b"{tenant}/users")
        );
    }

    #[test]
    fn a_name_that_would_scatter_its_keys_is_refused() {
        for bad in [&b""[..], b"}x", b"\xff"] {
            assert!(matches!(Place::new("semaphore", bad), Err(Error::Invalid(_))), "{bad:?}");
        }
        let long = Place::new("semaphore", &[b'n'; NAME_BYTES_MAX + 1]);
        assert!(matches!(long, Err(Error::TooLarge { bound: 200, .. })));
        let longest = Place::new("semaphore", &[b'n'; NAME_BYTES_MAX]).unwrap();
        let key = longest.place(LeaseId(u64::MAX));
        assert!(key.len() <= holdfast_model::limits::KEY_BYTES_GUARANTEED, "{}", key.len());
    }

    #[test]
    fn nobody_whose_turn_it_is_chooses_the_slot_of_another() {
        let view = view(&["3", "3", "3", "3"], &[(1, 2)]);
        let standing = |lease| view.standing(LeaseId(lease), 3).unwrap();
        assert_eq!(standing(1), Standing::Turn(0));
        assert_eq!(standing(3), Standing::Turn(2));
        let before = [1, 2, 3].map(LeaseId).into();
        assert_eq!(standing(4), Standing::Behind(before));
        assert_eq!(standing(9), Standing::Gone);
        assert_eq!((view.slots_max(), view.waiting()), (3, 3));
    }

    #[test]
    fn who_comes_later_does_not_overtake() {
        // Slot 0 is free, and the first in the queue has not taken it yet.
        let view = view(&["1", "1"], &[]);
        assert_eq!(view.standing(LeaseId(1), 1).unwrap(), Standing::Turn(0));
        let before = [LeaseId(1)].into();
        assert_eq!(view.standing(LeaseId(2), 1).unwrap(), Standing::Behind(before));
    }

    #[test]
    fn who_counts_otherwise_than_those_before_goes_away() {
        let view = view(&["3", "5"], &[]);
        assert_eq!(view.standing(LeaseId(1), 3).unwrap(), Standing::Turn(0));
        let refused = view.standing(LeaseId(2), 5);
        assert!(matches!(refused, Err(Error::FailedPrecondition(_))), "{refused:?}");
    }
}
