use super::{node, place};

/// What nodes of different versions must agree on, to the byte.
#[test]
fn the_placement_of_a_small_cluster_never_changes() {
    let nodes = [node(1, "a"), node(2, "a"), node(3, "b"), node(4, "b"), node(5, "c")];
    let placement = place(&nodes, 16);
    let rows = placement.iter().map(|(range, replicas)| {
        let ids: Vec<String> = replicas.iter().map(|node| node.0.to_string()).collect();
        format!("{}: {}\n", range.0, ids.join(" "))
    });
    assert_eq!(rows.collect::<String>(), include_str!("golden_placement.txt"));
}
