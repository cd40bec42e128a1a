//! The cluster: founding, map, status, keyspaces, leadership.

use std::sync::Arc;

use holdfast_model::ClusterMap;
use holdfast_wire::v1;

use super::{Call, Items, Reply};

/// What `node::system` does for the cluster's administrators.
///
/// Identity, permission and the rules of names and numbers have been checked by then. Errors are
/// final: the implementation looks for the leader of range 0 itself, until the call's deadline.
pub trait ClusterAdmin: Send + Sync + 'static {
    /// Founds a cluster with the named empty nodes; repeated with the same nodes it changes
    /// nothing. Works before the node serves anything else.
    fn init<'a>(&'a self, call: &'a Call, request: v1::InitRequest) -> Reply<'a, v1::InitResponse>;

    /// What this node is, hosts and reaches. Works in every state.
    fn status(&self) -> v1::StatusResponse;

    /// Asks range 0 for a keyspace that this node's copy of the map does not name. Afterwards the
    /// copy names it, if it exists.
    fn look_for_keyspace<'a>(&'a self, call: &'a Call, name: &'a str) -> Reply<'a, ()>;

    /// Hands the leadership of a range to a node, or to any up-to-date voter.
    fn transfer_leader<'a>(
        &'a self,
        call: &'a Call,
        request: v1::TransferLeaderRequest,
    ) -> Reply<'a, v1::TransferLeaderResponse>;

    /// Creates a keyspace; answers when every range of it is led.
    fn create_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::CreateKeyspaceRequest,
    ) -> Reply<'a, v1::CreateKeyspaceResponse>;

    /// Changes a keyspace's settings.
    fn alter_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::AlterKeyspaceRequest,
    ) -> Reply<'a, v1::AlterKeyspaceResponse>;

    /// Drops a keyspace with everything in it.
    fn drop_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::DropKeyspaceRequest,
    ) -> Reply<'a, v1::DropKeyspaceResponse>;
}

/// The cluster as adapters see it: [`ClusterAdmin`] behind limits and permission, and the map.
pub trait Cluster: Send + Sync + 'static {
    /// Founds a cluster.
    fn init<'a>(&'a self, call: &'a Call, request: v1::InitRequest) -> Reply<'a, v1::InitResponse>;

    /// This node's copy of the map.
    ///
    /// # Errors
    /// [`super::ApiError::NotReady`] before the node belongs to a cluster.
    fn map(&self, call: &Call) -> Result<Arc<ClusterMap>, super::ApiError>;

    /// The map, then the map again after every change.
    fn watch_map(&self, call: &Call) -> Items<Arc<ClusterMap>>;

    /// What this node is, hosts and reaches.
    fn status(&self, call: &Call) -> Result<v1::StatusResponse, super::ApiError>;

    /// A hash of everything that this node's own replica of a range holds. Reads all of it: for
    /// those who compare replicas.
    ///
    /// # Errors
    /// [`super::ApiError::NotHere`] without a replica here; [`super::ApiError::NotReady`] if it
    /// applied entries meanwhile: ask again.
    fn state_hash<'a>(
        &'a self,
        call: &'a Call,
        request: v1::StateHashRequest,
    ) -> Reply<'a, v1::StateHashResponse>;

    /// Hands leadership over.
    fn transfer_leader<'a>(
        &'a self,
        call: &'a Call,
        request: v1::TransferLeaderRequest,
    ) -> Reply<'a, v1::TransferLeaderResponse>;

    /// Creates a keyspace.
    fn create_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::CreateKeyspaceRequest,
    ) -> Reply<'a, v1::CreateKeyspaceResponse>;

    /// Changes a keyspace's settings.
    fn alter_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::AlterKeyspaceRequest,
    ) -> Reply<'a, v1::AlterKeyspaceResponse>;

    /// Drops a keyspace.
    fn drop_keyspace<'a>(
        &'a self,
        call: &'a Call,
        request: v1::DropKeyspaceRequest,
    ) -> Reply<'a, v1::DropKeyspaceResponse>;
}
