//! Puts graphs within graphs into one, and edges from names into numbers.

use crate::compile::{CompileError, edge, graph, node};
use crate::graph::{Graph, Node};
use std::collections::{BTreeMap, BTreeSet};

/// Most nodes and edges that are compiled.
const MAX_NODES: usize = 1 << 14;
const MAX_EDGES: usize = 1 << 18;
const MAX_NESTING: usize = 8;

/// A graph without graphs in it.
#[derive(Debug, Default)]
pub(crate) struct Flat<'a> {
    pub(crate) nodes: Vec<FlatNode<'a>>,
    /// From a node to a node, each once.
    pub(crate) edges: BTreeSet<(usize, usize)>,
}

/// A node with its full name.
#[derive(Debug)]
pub(crate) struct FlatNode<'a> {
    pub(crate) name: String,
    pub(crate) node: &'a Node,
    /// The Input or Output of an inner graph: it gives what it gets.
    pub(crate) is_inner_end: bool,
}

/// Where edges to and from a name of a graph really go.
#[derive(Debug, Clone, Copy)]
struct Ends {
    entry: usize,
    exit: usize,
}

pub(crate) fn flatten(graph: &Graph) -> Result<Flat<'_>, CompileError> {
    let mut flat = Flat::default();
    flat.add(graph, "", 0)?;
    Ok(flat)
}

impl<'a> Flat<'a> {
    fn add(
        &mut self,
        part: &'a Graph,
        prefix: &str,
        depth: usize,
    ) -> Result<BTreeMap<&'a str, Ends>, CompileError> {
        if depth > MAX_NESTING {
            return Err(graph(format!("graphs are nested deeper than {MAX_NESTING}")));
        }
        let mut ends = BTreeMap::new();
        for (name, node) in &part.nodes {
            let path = format!("{prefix}{name}");
            let end = match node {
                Node::Graph(inner) => self.add_inner(inner, &path, depth)?,
                node => self.push(path, node, depth > 0)?,
            };
            ends.insert(name.as_str(), end);
        }
        self.connect(part, prefix, &ends)?;
        Ok(ends)
    }

    fn push(&mut self, name: String, node: &'a Node, is_inner: bool) -> Result<Ends, CompileError> {
        if self.nodes.len() == MAX_NODES {
            return Err(graph(format!("it has more than {MAX_NODES} nodes")));
        }
        let index = self.nodes.len();
        let is_end = matches!(node, Node::Input { .. } | Node::Output { .. });
        self.nodes.push(FlatNode {
            name,
            node,
            is_inner_end: is_inner && is_end,
        });
        Ok(Ends {
            entry: index,
            exit: index,
        })
    }

    fn add_inner(&mut self, inner: &'a Graph, path: &str, depth: usize) -> Result<Ends, CompileError> {
        let ends = self.add(inner, &format!("{path}/"), depth + 1)?;
        let only = |what: &str, is_one: fn(&Node) -> bool| {
            let mut found = inner.nodes.iter().filter(|(_, node)| is_one(node));
            match (found.next(), found.next()) {
                (Some((name, _)), None) => Ok(name.as_str()),
                _ => Err(node(
                    path,
                    format!("a graph within a graph needs exactly one {what}"),
                )),
            }
        };
        let entry = only("Input", |node| matches!(node, Node::Input { .. }))?;
        let exit = only("Output", |node| matches!(node, Node::Output { .. }))?;
        match (ends.get(entry), ends.get(exit)) {
            (Some(entry), Some(exit)) => Ok(Ends {
                entry: entry.entry,
                exit: exit.exit,
            }),
            _ => Err(node(path, "it has no ends".into())),
        }
    }

    fn connect(
        &mut self,
        part: &'a Graph,
        prefix: &str,
        ends: &BTreeMap<&'a str, Ends>,
    ) -> Result<(), CompileError> {
        let named = |name: &str| format!("{prefix}{name}");
        for found in &part.edges {
            let refuse = |problem: String| edge(named(&found.from), named(&found.to), problem);
            let (Some(from), Some(to)) = (ends.get(found.from.as_str()), ends.get(found.to.as_str())) else {
                let is_known = ends.contains_key(found.from.as_str());
                let missing = if is_known { &found.to } else { &found.from };
                return Err(refuse(format!("there is no node {missing:?}")));
            };
            if matches!(part.nodes.get(&found.to), Some(Node::Input { .. })) {
                return Err(refuse("no edge goes to an Input of its own graph".into()));
            }
            if matches!(part.nodes.get(&found.from), Some(Node::Output { .. })) {
                return Err(refuse("no edge comes from an Output of its own graph".into()));
            }
            if self.edges.len() == MAX_EDGES {
                return Err(graph(format!("it has more than {MAX_EDGES} edges")));
            }
            self.edges.insert((from.exit, to.entry));
        }
        Ok(())
    }
}
