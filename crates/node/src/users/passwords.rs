//! Passwords: hashed with bcrypt, on threads that may wait, few at the same time.
//!
//! A hash is meant to take long. Without a bound whoever guesses passwords would have all threads
//! that read from the disk, and every processor.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_env::Entropy;
use holdfast_runtime::{Deadline, Pool};
use tokio::sync::Semaphore;

use crate::errors::ApiError;

/// Hashes that are worked on at the same time: half of the threads that wait for disks.
const HASHES_AT_ONCE_MAX: usize = 2;
/// Callers that are served or wait for their turn. Further ones are sent away.
const CALLERS_MAX: usize = 64;
/// What a caller who was sent away should wait: about as long as a hash takes.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(100);

/// A password. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Bytes);

impl Password {
    /// Of the bytes a caller sent.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for those who send them on.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Makes and checks hashes.
#[derive(Clone, Debug)]
pub(super) struct Passwords {
    cost: u32,
    callers: Arc<Semaphore>,
    working: Arc<Semaphore>,
}

impl Passwords {
    pub fn new(cost: u32) -> Self {
        let (callers, working) = (Semaphore::new(CALLERS_MAX), Semaphore::new(HASHES_AT_ONCE_MAX));
        Self { cost, callers: Arc::new(callers), working: Arc::new(working) }
    }

    /// The hash of a password, with a salt of its own.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`]: too many wait. [`ApiError::Deadline`].
    pub async fn hash(
        &self,
        pool: &Pool,
        entropy: &dyn Entropy,
        password: Password,
        deadline: Deadline,
    ) -> Result<Bytes, ApiError> {
        let (cost, mut salt) = (self.cost, [0; 16]);
        entropy.fill(&mut salt);
        let hashed =
            self.work(pool, deadline, move || bcrypt::hash_with_salt(password.0, cost, salt));
        let hashed = hashed.await?.map_err(|error| ApiError::Internal(error.to_string()))?;
        Ok(hashed.format_for_version(bcrypt::Version::TwoA).into())
    }

    /// Whether a password is the one a hash was made of. Without a hash it is not, which takes as
    /// long to find out: nobody learns from the time who exists.
    ///
    /// # Errors
    /// As [`Passwords::hash`].
    pub async fn matches(
        &self,
        pool: &Pool,
        password: Password,
        hash: Option<Bytes>,
        deadline: Deadline,
    ) -> Result<bool, ApiError> {
        let cost = self.cost;
        self.work(pool, deadline, move || {
            let text = hash.as_deref().and_then(|hash| std::str::from_utf8(hash).ok());
            let checked = text.and_then(|hash| bcrypt::verify(&password.0, hash).ok());
            checked.unwrap_or_else(|| {
                let _ = bcrypt::hash_with_salt(&password.0, cost, [0; 16]);
                false
            })
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        pool: &Pool,
        deadline: Deadline,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let Ok(caller) = self.callers.clone().try_acquire_owned() else {
            let what = "passwords that are checked at the same time".to_owned();
            return Err(ApiError::Overloaded { what, retry_after: RETRY_AFTER });
        };
        let late = || ApiError::Deadline("too many passwords are checked".into());
        let turn = deadline.limit(self.working.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| late())?.map_err(|_| late())?;
        // What was begun is finished, whether or not anybody waits for it.
        let job = move || {
            let done = job();
            drop((caller, turn));
            done
        };
        pool.run(job).await.map_err(|error| ApiError::NotReady(format!("passwords: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_env::sim::SimEntropy;

    use super::*;

    /// The lowest there is.
    const COST: u32 = 4;

    fn soon() -> Deadline {
        Deadline::after(std::time::Duration::from_secs(60))
    }

    #[tokio::test]
    async fn a_hash_is_of_its_password_alone_and_has_a_salt_of_its_own() {
        let (passwords, pool) = (Passwords::new(COST), Pool::inline());
        let entropy = SimEntropy::new(1);
        let hash = async |text: &'static str| {
            passwords.hash(&pool, &entropy, Password::new(text), soon()).await.unwrap()
        };
        let matches = async |text: &'static str, hash: Option<&Bytes>| {
            let hash = hash.cloned();
            passwords.matches(&pool, Password::new(text), hash, soon()).await.unwrap()
        };
        let (first, second) = (hash("right").await, hash("right").await);
        assert_ne!(first, second);
        assert!(first.starts_with(b"$2a$04$"), "{first:?}");
        assert!(matches("right", Some(&first)).await && matches("right", Some(&second)).await);
        assert!(!matches("wrong", Some(&first)).await);
        assert!(!matches("right", None).await);
        for broken in ["", "right", "$2a$04$short"] {
            assert!(!matches("right", Some(&broken.into())).await, "{broken}");
        }
    }

    #[tokio::test]
    async fn a_hash_of_etcds_is_understood() {
        let (passwords, pool) = (Passwords::new(COST), Pool::inline());
        // By golang.org/x/crypto/bcrypt.
        let hash =
            Bytes::from_static(b"$2a$04$JQjcsQMTTGz591I/LWTlT.o4TBAcvDzlGFqL6xg2gmQ6su3Q/db6.");
        let password = Password::new("p");
        assert!(passwords.matches(&pool, password, Some(hash), soon()).await.unwrap());
    }

    #[tokio::test]
    async fn callers_beyond_the_bound_are_sent_away() {
        let (passwords, pool) = (Passwords::new(COST), Pool::inline());
        let all = passwords.callers.clone().acquire_many_owned(CALLERS_MAX as u32).await.unwrap();
        let sent_away = passwords.matches(&pool, Password::new("p"), None, soon()).await;
        assert!(matches!(sent_away, Err(ApiError::Overloaded { .. })), "{sent_away:?}");
        drop(all);
        assert_eq!(passwords.matches(&pool, Password::new("p"), None, soon()).await, Ok(false));
    }

    #[test]
    fn a_password_is_not_printed() {
        assert!(!format!("{:?}", Password::new("secret")).contains("secret"));
    }
}
