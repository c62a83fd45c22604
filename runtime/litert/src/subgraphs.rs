//! Which operators run other subgraphs, and that these do not run one another without end.

use crate::flat::{Broken, Table};
use crate::graph::GraphError;

/// Numbers of operators that matter here; all others run no subgraph and keep no state.
mod code {
    pub const CALL: i32 = 31;
    pub const CUSTOM: i32 = 32;
    pub const IF: i32 = 118;
    pub const WHILE: i32 = 119;
    pub const CALL_ONCE: i32 = 129;
    pub const HASHTABLE: i32 = 136;
    pub const VAR_HANDLE: i32 = 142;
    /// StableHLO operators that run subgraphs: reduce, scatter, reduce_window, sort, while, composite, case.
    pub const STABLEHLO: [i32; 7] = [174, 190, 198, 199, 200, 206, 209];
}

/// Field of an operator that holds its options.
const OPTIONS: usize = 4;

/// The subgraph that an operator runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call(i32);

/// The kinds of operators that a file uses.
pub(crate) struct Codes(Vec<(i32, String)>);

impl Codes {
    pub fn read(tables: &[Table]) -> Result<Self, Broken> {
        let read = |table: &Table| {
            // Old files have one byte for the number, newer ones a longer field; the larger is meant.
            let old = i32::from(table.byte(0)?.cast_signed());
            Ok((old.max(table.int(3)?), table.text(1)?.to_owned()))
        };
        tables.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The number of a kind.
    pub fn builtin(&self, index: usize) -> i32 {
        self.0.get(index).map_or(code::CUSTOM, |(number, _)| *number)
    }

    pub fn custom(&self) -> Vec<String> {
        let custom = self.0.iter().filter(|(number, _)| *number == code::CUSTOM);
        custom.map(|(_, name)| name.clone()).collect()
    }

    /// Whether an operator keeps state outside the tensors.
    pub fn keep_state(&self) -> bool {
        let keeps = [code::VAR_HANDLE, code::HASHTABLE];
        self.0.iter().any(|(number, _)| keeps.contains(number))
    }
}

/// What an operator runs besides itself.
pub(crate) fn call(operator: &Table, builtin: i32) -> Result<Vec<Call>, GraphError> {
    let fields = match builtin {
        code::CALL_ONCE => 1,
        code::IF | code::WHILE => 2,
        code::CALL => return Err(GraphError::Operator(builtin)),
        other if code::STABLEHLO.contains(&other) => return Err(GraphError::Operator(other)),
        _ => return Ok(Vec::new()),
    };
    let read = || -> Result<Vec<Call>, Broken> {
        let options = operator.table(OPTIONS)?.ok_or(Broken)?;
        (0..fields).map(|number| options.int(number).map(Call)).collect()
    };
    read().map_err(|Broken| GraphError::Broken("the options of an operator"))
}

/// Longest chain of subgraphs that call one another; the C library recurses that deep.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    /// Walked; the longest chain of calls that begins here.
    Done(usize),
}

/// Every called subgraph must be there, no chain of calls may come back to where it began, and none may be long.
pub(crate) fn check_calls(calls: &[&[Call]]) -> Result<(), GraphError> {
    let mut marks = vec![Mark::New; calls.len()];
    for start in 0..calls.len() {
        walk(start, calls, &mut marks)?;
    }
    Ok(())
}

/// Walks depth first without recursion: a hostile file could call through thousands of subgraphs.
fn walk(start: usize, calls: &[&[Call]], marks: &mut [Mark]) -> Result<(), GraphError> {
    let mut path = vec![(start, 0)];
    while let Some((at, next)) = path.pop() {
        if next == 0 && !enter(at, marks)? {
            continue;
        }
        let called = calls.get(at).copied().unwrap_or_default();
        match called.get(next) {
            Some(&call) => {
                path.push((at, next + 1));
                path.push((target(at, call, calls.len())?, 0));
            }
            None => leave(at, called, marks)?,
        }
    }
    Ok(())
}

fn target(at: usize, Call(called): Call, count: usize) -> Result<usize, GraphError> {
    let target = usize::try_from(called).ok().filter(|&i| i < count);
    target.ok_or_else(|| GraphError::Index {
        place: format!("subgraph {at}"),
        what: "subgraph",
        index: i64::from(called),
        count,
    })
}

/// Marks a subgraph as under way; false where it was walked before.
fn enter(at: usize, marks: &mut [Mark]) -> Result<bool, GraphError> {
    match marks.get_mut(at) {
        Some(mark @ Mark::New) => *mark = Mark::Open,
        Some(Mark::Open) => return Err(GraphError::Cycle(at)),
        _ => return Ok(false),
    }
    Ok(true)
}

fn leave(at: usize, called: &[Call], marks: &mut [Mark]) -> Result<(), GraphError> {
    let depth = |&Call(i): &Call| match usize::try_from(i).ok().and_then(|i| marks.get(i)) {
        Some(Mark::Done(depth)) => *depth,
        _ => 0,
    };
    let depth = 1 + called.iter().map(depth).max().unwrap_or(0);
    if depth > MAX_DEPTH {
        return Err(GraphError::Count {
            what: "subgraphs that call one another in a chain",
            count: depth,
            most: MAX_DEPTH,
        });
    }
    if let Some(mark) = marks.get_mut(at) {
        *mark = Mark::Done(depth);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(calls: &[&[i32]]) -> Result<(), GraphError> {
        let calls: Vec<Vec<Call>> = calls
            .iter()
            .map(|c| c.iter().map(|&i| Call(i)).collect())
            .collect();
        check_calls(&calls.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn calls_that_end_are_well() {
        assert_eq!(check(&[&[1, 2], &[2], &[]]), Ok(()));
        assert_eq!(check(&[&[1, 1, 1], &[]]), Ok(()));
    }

    #[test]
    fn calls_without_end_or_target_are_refused() {
        assert_eq!(check(&[&[0]]), Err(GraphError::Cycle(0)));
        assert_eq!(check(&[&[1], &[2], &[1]]), Err(GraphError::Cycle(1)));
        assert!(matches!(
            check(&[&[1]]),
            Err(GraphError::Index {
                index: 1,
                count: 1,
                ..
            })
        ));
        assert!(matches!(
            check(&[&[-1]]),
            Err(GraphError::Index { index: -1, .. })
        ));
    }

    #[test]
    fn a_chain_is_followed_without_recursion_and_is_not_long() {
        let chain = |length: i32| {
            let calls: Vec<Vec<Call>> = (1..=length)
                .map(|i| if i < length { vec![Call(i)] } else { vec![] })
                .collect();
            check_calls(&calls.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        assert_eq!(chain(64), Ok(()));
        assert!(matches!(chain(65), Err(GraphError::Count { count: 65, .. })));
        assert!(chain(100_000).is_err());
    }
}
