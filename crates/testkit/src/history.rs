//! What the clients of a run asked, when, and what they were told.
