//! The session table: who may be answered again, and with what.
//!
//! It is kept in memory whole, since every tagged mutation asks it, and written through to the
//! `session` family: one record per session, and one chunk of answers per session and entry. A
//! chunk goes when the watermark has passed all its answers.
//!
//! Owns: sessions, their watermarks, remembered answers, their end.
//! Must never know: how an outcome is made from an answer.
//! Invariants:
//! * A session that has ended, or was never opened, remembers nothing and admits nothing.
//! * The id of an ended session is refused for [`ENDED_KEPT`], longer than any request lives.
//! * The table never weighs more than [`SESSION_TABLE_BYTES_MAX`].
//! * The table after loading equals the table that was written.
//! Source: Raft thesis §6.3.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::defect;
use holdfast_lsm::{Engine, Family, ReadPoint};
use holdfast_model::limits::{
    REQUEST_DEADLINE_MAX, SESSION_IDLE_MAX, SESSION_UNANSWERED_MAX, SESSIONS_PER_RANGE_MAX,
};
use holdfast_model::{ClientId, LeaseId};

use crate::records::{
    Answer, ChunkRecord, Due, Remembered, SessionRecord, Subject, chunk_key, seal,
    session_from_key, session_key, unseal,
};
use crate::working::Working;
use crate::{Refusal, Result};

/// How long the id of an ended session is remembered, range time: no request that was sent while
/// it was open can be appended later.
const ENDED_KEPT: Duration = Duration::from_secs(300);
/// What the session table of a range may weigh, bytes (64 MiB). Beyond it nothing is executed in
/// sessions; watermarks still rise, so that it recovers by itself.
pub const SESSION_TABLE_BYTES_MAX: u64 = 64 << 20;
/// What a remembered answer is counted with, bytes.
const ANSWER_BYTES: u64 = 128;
/// What a session is counted with besides its answers, bytes.
const SESSION_BYTES: u64 = 256;

const _: () = assert!(
    SESSIONS_PER_RANGE_MAX as u64 * SESSION_BYTES < SESSION_TABLE_BYTES_MAX,
    "a full table without answers is within its budget"
);
const _: () = assert!(ENDED_KEPT.as_secs() >= 2 * REQUEST_DEADLINE_MAX.as_secs());

/// Range time after which an idle session ends, milliseconds.
pub(crate) const IDLE_MAX_MS: u64 = SESSION_IDLE_MAX.as_secs() * 1_000;
const ENDED_KEPT_MS: u64 = ENDED_KEPT.as_secs() * 1_000;

/// All sessions of a range.
#[derive(Default)]
pub(crate) struct Sessions {
    table: BTreeMap<ClientId, Session>,
    answers: u64,
    dirty: BTreeSet<ClientId>,
    /// Chunks of the entries that are being applied.
    fresh: BTreeMap<(ClientId, u64), ChunkRecord>,
}

#[derive(Default)]
struct Session {
    record: SessionRecord,
    answers: BTreeMap<u64, Kept>,
    /// How many answers are left of each chunk.
    chunks: BTreeMap<u64, u32>,
}

struct Kept {
    payload: u64,
    index: u64,
    answer: Answer,
}

/// What the table says about an operation.
pub(crate) enum Verdict {
    /// It was not executed yet: execute it, then [`Sessions::remember`].
    Execute,
    /// It was executed: answer this again.
    Answered(Answer),
}

impl Sessions {
    /// Reads the table as the engine has it at `point`.
    pub fn load(engine: &Engine, point: ReadPoint) -> Result<Self> {
        let mut sessions = Self::default();
        let all = (Bound::Unbounded, Bound::Unbounded);
        for found in engine.scan(Family::Session, all, point, false)? {
            let (key, record) = found?;
            let (client, chunk) = session_from_key(&key)?;
            match chunk {
                None => {
                    let record = unseal("session", record.value)?;
                    sessions.table.insert(client, Session { record, ..Session::default() });
                }
                Some(index) => {
                    let chunk: ChunkRecord = unseal("session", record.value)?;
                    sessions.adopt(client, index, chunk);
                }
            }
        }
        Ok(sessions)
    }

    /// Takes over a stored chunk, without the answers the watermark has passed.
    fn adopt(&mut self, client: ClientId, index: u64, chunk: ChunkRecord) {
        // A session's record sorts before its chunks.
        let Some(session) = self.table.get_mut(&client) else { return };
        for Remembered { seq, payload, answer } in chunk.answers {
            if seq >= session.record.watermark {
                session.answers.insert(seq, Kept { payload, index, answer });
                *session.chunks.entry(index).or_default() += 1;
                self.answers += 1;
            }
        }
    }

    /// Number of sessions, ended ones whose id is still refused included.
    pub fn len(&self) -> u64 {
        self.table.len() as u64
    }

    /// Number of remembered answers.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// What the table weighs, bytes.
    pub fn bytes(&self) -> u64 {
        self.len() * SESSION_BYTES + self.answers * ANSWER_BYTES
    }

    /// Opens a session for `user`, or finds it open.
    pub fn open(
        &mut self,
        client: ClientId,
        user: Option<&Bytes>,
        work: &mut Working<'_>,
    ) -> std::result::Result<(), Refusal> {
        let is_closed = self.table.get(&client).is_some_and(|session| session.record.ended);
        let begins_anew = defect!(SESSION_OPENED_ANEW) && !is_closed
            || defect!(CLOSED_SESSION_REOPENED) && is_closed;
        if self.table.contains_key(&client) && !begins_anew {
            return self.touch(client, user, 0, work);
        }
        if self.table.len() >= SESSIONS_PER_RANGE_MAX {
            return Err(Refusal::SessionTableFull { limit: SESSIONS_PER_RANGE_MAX as u64 });
        }
        let indexed_ms = work.clock_ms.saturating_add(IDLE_MAX_MS);
        work.index(&Due::new(indexed_ms, Subject::Session(client)), LeaseId(0));
        let record = SessionRecord {
            user: user.cloned(),
            watermark: 0,
            active_at_ms: work.clock_ms,
            indexed_ms,
            ended: false,
        };
        self.table.insert(client, Session { record, ..Session::default() });
        self.dirty.insert(client);
        Ok(())
    }

    /// Checks that a session is open to `user`, keeps it alive and raises its watermark.
    pub fn touch(
        &mut self,
        client: ClientId,
        user: Option<&Bytes>,
        watermark: u64,
        work: &mut Working<'_>,
    ) -> std::result::Result<(), Refusal> {
        let session = self.table.get_mut(&client).ok_or(Refusal::SessionExpired)?;
        if session.record.ended {
            return Err(Refusal::SessionExpired);
        }
        if !session.belongs_to(user) {
            return Err(Refusal::SessionOwner);
        }
        if session.is_idle(work.clock_ms) {
            self.end(client, work);
            return Err(Refusal::SessionExpired);
        }
        session.record.active_at_ms = work.clock_ms;
        if watermark > session.record.watermark {
            session.record.watermark = watermark;
            self.answers -= session.forget_below(client, watermark, work);
        }
        self.dirty.insert(client);
        Ok(())
    }

    /// Whether an operation of an open session is to be executed.
    pub fn verdict(
        &self,
        client: ClientId,
        seq: u64,
        payload: u64,
    ) -> std::result::Result<Verdict, Refusal> {
        let session = self.table.get(&client).ok_or(Refusal::SessionExpired)?;
        let watermark = session.record.watermark;
        if seq < watermark {
            return Err(Refusal::SessionStale { watermark });
        }
        let known = session.answers.get(&seq);
        match known.filter(|_| !defect!(RETRY_APPLIED_AGAIN)) {
            Some(kept) if kept.payload == payload => Ok(Verdict::Answered(kept.answer)),
            Some(_) => Err(Refusal::SessionPayload),
            None if session.answers.len() >= SESSION_UNANSWERED_MAX => {
                Err(Refusal::SessionUnanswered { limit: SESSION_UNANSWERED_MAX as u64 })
            }
            None if self.bytes() + ANSWER_BYTES > SESSION_TABLE_BYTES_MAX => {
                Err(Refusal::SessionMemory { limit: SESSION_TABLE_BYTES_MAX })
            }
            None => Ok(Verdict::Execute),
        }
    }

    /// Remembers what entry `index` answered.
    pub fn remember(&mut self, client: ClientId, index: u64, remembered: Remembered) {
        let Some(session) = self.table.get_mut(&client) else { return };
        let Remembered { seq, payload, answer } = remembered;
        session.answers.insert(seq, Kept { payload, index, answer });
        *session.chunks.entry(index).or_default() += 1;
        self.answers += 1;
        self.fresh.entry((client, index)).or_default().answers.push(remembered);
    }

    /// Ends a session at its client's wish; ending an ended one changes nothing.
    pub fn close(
        &mut self,
        client: ClientId,
        user: Option<&Bytes>,
        work: &mut Working<'_>,
    ) -> std::result::Result<(), Refusal> {
        let session = self.table.get(&client).ok_or(Refusal::SessionExpired)?;
        if !session.belongs_to(user) {
            return Err(Refusal::SessionOwner);
        }
        if !session.record.ended {
            self.end(client, work);
        }
        Ok(())
    }

    /// The expiry index has come to a session: it ends, is forgotten, or is indexed again.
    pub fn due(&mut self, client: ClientId, work: &mut Working<'_>) {
        let Some(session) = self.table.get_mut(&client) else { return };
        if session.record.ended {
            self.table.remove(&client);
            self.dirty.insert(client);
        } else if session.is_idle(work.clock_ms) {
            self.end(client, work);
        } else {
            session.index(client, session.record.active_at_ms.saturating_add(IDLE_MAX_MS), work);
            self.dirty.insert(client);
        }
    }

    /// Ends a session: its answers go, its id stays refused for a while.
    fn end(&mut self, client: ClientId, work: &mut Working<'_>) {
        let Some(session) = self.table.get_mut(&client) else { return };
        self.answers -= session.forget_below(client, u64::MAX, work);
        session.record.ended = true;
        session.index(client, work.clock_ms.saturating_add(ENDED_KEPT_MS), work);
        self.dirty.insert(client);
    }

    /// Writes what has changed to `work`.
    pub fn store(&mut self, work: &mut Working<'_>) {
        for ((client, index), chunk) in std::mem::take(&mut self.fresh) {
            let lives = self.table.get(&client).is_some_and(|s| s.chunks.contains_key(&index));
            if lives && !defect!(SESSION_ANSWERS_NOT_STORED) {
                work.set(Family::Session, chunk_key(client, index), Some(seal(&chunk)));
            }
        }
        for client in std::mem::take(&mut self.dirty) {
            let record = self.table.get(&client).map(|session| seal(&session.record));
            work.set(Family::Session, session_key(client), record);
        }
    }
}

impl Session {
    /// No user and one without a name are the same: nobody.
    fn belongs_to(&self, user: Option<&Bytes>) -> bool {
        let named = |user: Option<&Bytes>| user.filter(|name| !name.is_empty()).cloned();
        named(self.record.user.as_ref()) == named(user)
    }

    fn is_idle(&self, clock_ms: u64) -> bool {
        self.record.active_at_ms.saturating_add(IDLE_MAX_MS) <= clock_ms
    }

    /// Moves the session's place in the expiry index.
    fn index(&mut self, client: ClientId, at_ms: u64, work: &mut Working<'_>) {
        work.unindex(&Due::new(self.record.indexed_ms, Subject::Session(client)));
        self.record.indexed_ms = at_ms;
        work.index(&Due::new(at_ms, Subject::Session(client)), LeaseId(0));
    }

    /// Forgets answers below `seq`, and the chunks that held nothing else. How many answers.
    fn forget_below(&mut self, client: ClientId, seq: u64, work: &mut Working<'_>) -> u64 {
        let kept = self.answers.split_off(&seq);
        let forgotten = std::mem::replace(&mut self.answers, kept);
        for kept in forgotten.values() {
            if let Some(left) = self.chunks.get_mut(&kept.index) {
                *left -= 1;
                if *left == 0 {
                    self.chunks.remove(&kept.index);
                    work.set(Family::Session, chunk_key(client, kept.index), None);
                }
            }
        }
        forgotten.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_budget_nothing_new_is_executed_but_retries_are_answered() {
        let client = ClientId(1);
        let mut sessions = Sessions::default();
        sessions.table.insert(client, Session::default());
        let answer = Answer { revision: 7, ..Answer::default() };
        sessions.remember(client, 1, Remembered { seq: 1, payload: 9, answer });
        assert!(matches!(sessions.verdict(client, 2, 9), Ok(Verdict::Execute)));
        let room = (SESSION_TABLE_BYTES_MAX - SESSION_BYTES) / ANSWER_BYTES;
        sessions.answers = room - 1;
        assert!(matches!(sessions.verdict(client, 2, 9), Ok(Verdict::Execute)));
        sessions.answers = room;
        let refused = Refusal::SessionMemory { limit: SESSION_TABLE_BYTES_MAX };
        assert!(matches!(sessions.verdict(client, 2, 9), Err(refusal) if refusal == refused));
        let retried = sessions.verdict(client, 1, 9);
        assert!(matches!(retried, Ok(Verdict::Answered(given)) if given == answer));
    }
}
