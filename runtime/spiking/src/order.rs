//! The order of a step, and the edges that close cycles.

use std::collections::BTreeSet;

/// Nodes in the order of a step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) sequence: Vec<usize>,
    /// Edges that go back: they carry what was one step before.
    pub(crate) back: BTreeSet<(usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unseen,
    Open,
    Done,
}

/// Walks depth first from the inputs, by ascending number; an edge to a node that is still open goes
/// back. Where every cycle is entered at one node, as cycles of networks are, these edges do not
/// depend on the numbers. Nodes that no input reaches are left out.
pub(crate) fn order(nodes: usize, edges: &BTreeSet<(usize, usize)>, inputs: &[usize]) -> Order {
    let mut marks = vec![Mark::Unseen; nodes];
    let mut done = Vec::with_capacity(nodes);
    let mut back = BTreeSet::new();
    for &input in inputs {
        walk(input, edges, &mut marks, &mut done, &mut back);
    }
    done.reverse();
    Order { sequence: done, back }
}

fn walk(
    start: usize,
    edges: &BTreeSet<(usize, usize)>,
    marks: &mut [Mark],
    done: &mut Vec<usize>,
    back: &mut BTreeSet<(usize, usize)>,
) {
    // Each open node with the successor that is looked at next.
    let mut open = Vec::new();
    enter(start, marks, &mut open);
    while let Some((node, next)) = open.pop() {
        let Some(&(_, to)) = edges.range((node, next)..=(node, usize::MAX)).next() else {
            set(marks, node, Mark::Done);
            done.push(node);
            continue;
        };
        open.push((node, to + 1));
        match marks.get(to) {
            Some(Mark::Unseen) => enter(to, marks, &mut open),
            Some(Mark::Open) => {
                back.insert((node, to));
            }
            _ => {}
        }
    }
}

fn enter(node: usize, marks: &mut [Mark], open: &mut Vec<(usize, usize)>) {
    if marks.get(node) == Some(&Mark::Unseen) {
        set(marks, node, Mark::Open);
        open.push((node, 0));
    }
}

fn set(marks: &mut [Mark], node: usize, mark: Mark) {
    if let Some(place) = marks.get_mut(node) {
        *place = mark;
    }
}

/// A node of a cycle in which no node is stateful, if there is one: such a cycle has no time in it.
pub(crate) fn timeless_cycle(edges: &BTreeSet<(usize, usize)>, stateful: &[bool]) -> Option<usize> {
    let is_plain = |node: usize| stateful.get(node) == Some(&false);
    let inner = edges
        .iter()
        .copied()
        .filter(|&(from, to)| is_plain(from) && is_plain(to));
    let inner: BTreeSet<(usize, usize)> = inner.collect();
    let every: Vec<usize> = (0..stateful.len()).filter(|&node| is_plain(node)).collect();
    let found = order(stateful.len(), &inner, &every);
    found.back.first().map(|&(_, to)| to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_closes_a_cycle_goes_back() {
        // 0 → 1 → 2 → 3, and 2 → 4 → 1.
        let edges = BTreeSet::from([(0, 1), (1, 2), (2, 3), (2, 4), (4, 1)]);
        let found = order(5, &edges, &[0]);
        assert_eq!(found.back, BTreeSet::from([(4, 1)]));
        let place = |node| found.sequence.iter().position(|&n| n == node);
        for (from, to) in edges.difference(&found.back) {
            assert!(place(*from) < place(*to), "{from} before {to}");
        }
    }

    #[test]
    fn what_no_input_reaches_is_left_out_and_a_loop_on_itself_goes_back() {
        let edges = BTreeSet::from([(0, 1), (1, 1), (2, 1)]);
        let found = order(3, &edges, &[0]);
        assert_eq!(found.sequence, [0, 1]);
        assert_eq!(found.back, BTreeSet::from([(1, 1)]));
    }

    #[test]
    fn a_cycle_without_state_is_found() {
        let edges = BTreeSet::from([(0, 1), (1, 2), (2, 1)]);
        assert_eq!(timeless_cycle(&edges, &[false, false, true]), None);
        assert!(timeless_cycle(&edges, &[true, false, false]).is_some());
    }
}
