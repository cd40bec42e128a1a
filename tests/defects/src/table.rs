//! Which scenario is to catch which defect.
//!
//! The first one that fails under its defect has caught it; the others are in reserve, for a
//! scenario that comes to look elsewhere. Campaigns are tried over a few seeds.

use std::fmt;

use holdfast_env::defects as d;
use holdfast_env::defects::Defect;

/// Something that passes, and fails where a certain mistake was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// A test of a crate.
    Test {
        /// The crate.
        suite: &'static str,
        /// Its module.
        module: &'static str,
        /// Its name there.
        name: &'static str,
    },
    /// Crash images and faults of engine and journal.
    Storage {
        /// The campaign.
        campaign: &'static str,
        /// The first seed.
        first: u64,
        /// The last one.
        last: u64,
    },
}

impl Scenario {
    /// The layer of the tests it belongs to.
    pub fn layer(self) -> &'static str {
        match self {
            Self::Test { suite, .. } => suite,
            Self::Storage { .. } => "storage",
        }
    }

    /// One scenario for each seed.
    pub fn seeds(self) -> Vec<Self> {
        match self {
            Self::Test { .. } => vec![self],
            Self::Storage { campaign, first, last } => (first..=last)
                .map(|seed| Self::Storage { campaign, first: seed, last: seed })
                .collect(),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test { module, name, .. } => write!(f, "{module}::{name}"),
            Self::Storage { campaign, first, .. } => write!(f, "{campaign} {first}"),
        }
    }
}

const fn kv(module: &'static str, name: &'static str) -> Scenario {
    Scenario::Test { suite: "kv", module, name }
}

const fn replica(module: &'static str, name: &'static str) -> Scenario {
    Scenario::Test { suite: "replica", module, name }
}

const fn node(module: &'static str, name: &'static str) -> Scenario {
    Scenario::Test { suite: "node", module, name }
}

const fn client(module: &'static str, name: &'static str) -> Scenario {
    Scenario::Test { suite: "client", module, name }
}

const fn journal(module: &'static str, name: &'static str) -> Scenario {
    Scenario::Test { suite: "journal", module, name }
}

const fn testkit(module: &'static str, name: &'static str) -> Scenario {
    Scenario::Test { suite: "testkit", module, name }
}

const fn lsm(module: &'static str, name: &'static str) -> Scenario {
    Scenario::Test { suite: "lsm", module, name }
}

const fn storage(campaign: &'static str, last: u64) -> Scenario {
    Scenario::Storage { campaign, first: 1, last }
}

const SCRIPTS: Scenario = kv("scripts", "every_script_gives_what_it_claims");
const ONCE: Scenario = kv("exactly_once", "attempts_of_one_number_run_once_and_answer_alike");

/// Every defect, and what is to notice it.
pub const CAUGHT_BY: &[(Defect, &[Scenario])] = &[
    (d::SKIP_DIRECTORY_FSYNC, &[storage("journal", 3)]),
    (d::ACKNOWLEDGE_BEFORE_FSYNC, &[storage("journal", 3)]),
    (d::ACCEPT_TORN_RECORD, &[storage("journal", 12)]),
    (d::CHECKSUM_WITHOUT_POSITION, &[storage("platter", 3)]),
    (
        d::ENGINE_AHEAD_OF_JOURNAL,
        &[storage("node", 40), lsm("crash", "nothing_becomes_durable_before_the_journal_is")],
    ),
    (d::RENAME_BEFORE_SYNC, &[storage("engine", 3)]),
    (d::BLOOM_FALSE_NEGATIVE, &[storage("engine", 3)]),
    (
        d::TOMBSTONE_DROPPED_EARLY,
        &[
            storage("engine", 3),
            lsm("model", "any_operations_under_any_options_answer_like_the_model"),
        ],
    ),
    (
        d::FAILED_FSYNC_RETRIED,
        &[storage("flight", 30), journal("commit", "a_failed_sync_poisons_the_journal")],
    ),
    (d::RETRY_APPLIED_AGAIN, &[ONCE, SCRIPTS]),
    (d::SESSION_OPENED_ANEW, &[SCRIPTS]),
    (d::CLOSED_SESSION_REOPENED, &[SCRIPTS]),
    (d::SESSION_ANSWERS_NOT_STORED, &[ONCE, SCRIPTS]),
    (
        d::SESSIONS_KEPT_OVER_SNAPSHOT,
        &[kv(
            "recovery",
            "a_replica_that_takes_a_snapshot_answers_the_retries_of_what_its_sender_did",
        )],
    ),
    (d::LOCK_GRANTED_AFTER_EXPIRY, &[SCRIPTS]),
    (d::LOCK_GRANTED_TO_TWO, &[SCRIPTS]),
    (d::LEASE_ENDS_AT_FIRST_EXPIRY, &[SCRIPTS]),
    (
        d::WATCH_LOSES_COMPACTED,
        &[
            replica(
                "watches",
                "a_watcher_whose_history_is_compacted_while_it_sleeps_is_told_the_oldest_revision",
            ),
            SCRIPTS,
        ],
    ),
    (d::EXPIRY_INDEX_KEPT, &[kv("model", "keys_behave_like_a_map_with_a_clock"), SCRIPTS]),
    (
        d::VOTER_FORGETS_LEASE,
        &[
            replica(
                "elections",
                "no_read_is_stale_while_the_voter_that_alone_heard_the_leader_restarts",
            ),
            replica("elections", "a_restarted_voter_keeps_its_vote_until_old_leases_have_run_out"),
        ],
    ),
    (
        d::LEASE_WITHOUT_DRIFT_MARGIN,
        &[replica(
            "elections",
            "no_read_is_stale_while_the_leaders_clock_is_slow_and_the_others_fast",
        )],
    ),
    (
        d::FOLLOWER_READ_BEFORE_APPLY,
        &[replica("reads", "a_read_on_a_follower_that_learns_of_entries_late_waits_for_them")],
    ),
    (
        d::READ_INDEX_WITHOUT_QUORUM,
        &[replica("elections", "no_linearizable_read_is_stale_where_a_leaders_clock_stands_still")],
    ),
    (
        d::READ_JOINS_ROUND_UNDER_WAY,
        &[replica("reads", "a_read_never_takes_the_answer_of_a_round_that_began_before_it")],
    ),
    (
        d::BOUND_FROM_END_OF_ROUND,
        &[replica("reads", "the_bound_holds_what_it_says_while_writes_go_on")],
    ),
    (
        d::TOKEN_NOT_AWAITED,
        &[replica("reads", "a_token_is_served_only_where_its_point_is_reached")],
    ),
    (
        d::TTL_BY_LOCAL_CLOCK,
        &[replica("elections", "a_step_of_the_leaders_wall_clock_ends_no_time_to_live")],
    ),
    (d::VOTE_NOT_DURABLE, &[replica("elections", "no_vote_is_taken_back_wherever_the_power_goes")]),
    (
        d::PRE_VOTE_STUB,
        &[replica("elections", "a_voter_that_does_not_hear_the_leader_deposes_nobody")],
    ),
    (
        d::DEPOSED_LEADER_HEARD,
        &[replica("elections", "what_a_deposed_leader_says_keeps_nobody_from_campaigning")],
    ),
    (
        d::PURGE_BEFORE_DURABLE,
        &[
            replica("snapshots", "nothing_is_purged_that_is_not_durable_in_the_engine"),
            replica("power", "nothing_acknowledged_is_lost_wherever_the_power_goes"),
        ],
    ),
    (
        d::SNAPSHOT_INSTALL_NOT_ATOMIC,
        &[lsm("crash", "power_cut_during_a_snapshot_install_leaves_the_old_state_or_the_new")],
    ),
    (
        d::WATCH_REPLAYS_AFTER_SNAPSHOT,
        &[replica("snapshots", "a_watch_tells_nothing_twice_over_a_snapshot")],
    ),
    (
        d::WATCH_LOSES_WHEN_FULL,
        &[replica("watches", "a_slow_watcher_costs_bounded_memory_and_misses_nothing")],
    ),
    (
        d::RENEWAL_BEYOND_LOG,
        &[replica(
            "renewals",
            "after_a_leader_change_nothing_expires_before_what_an_answer_promised",
        )],
    ),
    (
        d::WIPED_FOUNDER_FOUNDS_AGAIN,
        &[node("cluster", "a_wiped_founder_founds_no_second_cluster_beside_its_own")],
    ),
    (
        d::REPLICA_DELETED_ON_NEGATIVE_EVIDENCE,
        &[testkit("scheduled", "a_node_cut_off_while_the_cluster_is_founded_keeps_its_replicas")],
    ),
    (
        d::NODE_ID_REUSED,
        &[node(
            "transport",
            "a_node_with_another_directory_under_an_old_id_is_told_so_whoever_calls_first",
        )],
    ),
    (
        d::UNKNOWN_OUTCOME_REPEATED,
        &[client("retries", "a_put_without_session_is_never_sent_again_after_an_unknown_outcome")],
    ),
    (
        d::REFUSAL_DECIDES_UNKNOWN,
        &[client("retries", "a_refusal_after_an_unknown_attempt_leaves_the_outcome_unknown")],
    ),
];
