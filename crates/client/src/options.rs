//! Options that several requests share.

/// Adds `deadline` to a request builder with a `client` field.
macro_rules! with_deadline {
    () => {
        /// How long this call may take, retries included; above 0, at most 60 s.
        pub fn deadline(mut self, deadline: std::time::Duration) -> Self {
            self.client.deadline = deadline;
            self
        }
    };
}

/// Adds read options to a request builder with a `read` field.
macro_rules! with_read_options {
    () => {
        /// How current the answer has to be.
        pub fn level(mut self, level: $crate::types::ReadLevel) -> Self {
            self.read.level = level.to_wire().into();
            self
        }

        /// Follower reads only: refuse an answer that may be older than this.
        pub fn max_staleness(mut self, bound: std::time::Duration) -> Self {
            self.read.max_staleness_ms = $crate::types::millis(bound).max(1);
            self
        }

        /// See no state older than `point` (of an earlier answer), whatever replica serves it.
        pub fn at_least(mut self, point: $crate::types::ReadPoint) -> Self {
            self.read.min_points.push(point.into());
            self
        }
    };
}

/// Adds a condition to a request builder with a `condition` field.
macro_rules! with_condition {
    () => {
        /// Only under this condition; where it does not hold, the answer says what stands there.
        pub fn condition(mut self, condition: $crate::types::Condition) -> Self {
            self.condition = Some(condition);
            self
        }

        /// Only if the key does not exist.
        pub fn if_absent(self) -> Self {
            self.condition($crate::types::Condition::IfAbsent)
        }

        /// Only if the key exists and was changed last at `revision`.
        pub fn if_revision(self, revision: holdfast_model::Revision) -> Self {
            self.condition($crate::types::Condition::IfRevision(revision))
        }

        /// Only if the key exists with this value.
        pub fn if_value(self, value: impl Into<bytes::Bytes>) -> Self {
            self.condition($crate::types::Condition::IfValue(value.into()))
        }
    };
}

/// Lets a request builder be awaited directly.
macro_rules! awaitable {
    ($request:ty => $output:ty, $method:ident) => {
        impl IntoFuture for $request {
            type Output = Result<$output, $crate::error::Error>;
            type IntoFuture =
                std::pin::Pin<Box<dyn Future<Output = Self::Output> + Send + 'static>>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.$method())
            }
        }
    };
}

pub(crate) use {awaitable, with_condition, with_deadline, with_read_options};
