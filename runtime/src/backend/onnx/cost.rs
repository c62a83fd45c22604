//! How much work a graph is, by tract's own cost model.

use tract_onnx::tract_core::ops::Cost;
use tract_onnx::tract_core::ops::logic::IfThenElse;
use tract_onnx::tract_core::ops::scan::OptScan;
use tract_onnx::tract_hir::internal::{TractResult, TypedModel, TypedNode};

/// Multiply-accumulates of one run; nothing where a shape is only known at run time.
pub fn multiply_accumulates(model: &TypedModel) -> Option<u64> {
    let mut sum = 0u64;
    for node in model.nodes() {
        sum = sum.checked_add(of_node(model, node).ok()??)?;
    }
    Some(sum)
}

fn of_node(model: &TypedModel, node: &TypedNode) -> TractResult<Option<u64>> {
    let inputs = model.node_input_facts(node.id)?;
    // A loop's cost is its body's, once a turn.
    if let Some(scan) = node.op_as::<OptScan>() {
        let turns = scan
            .iteration_count(&inputs)
            .and_then(|turns| turns.to_i64().ok());
        let turns = turns.and_then(|turns| u64::try_from(turns).ok());
        let body = multiply_accumulates(scan.plan.model());
        return Ok(turns.zip(body).and_then(|(turns, body)| turns.checked_mul(body)));
    }
    // Which branch runs is known at run time: the dearer one counts.
    if let Some(branches) = node.op_as::<IfThenElse>() {
        let (one, other) = (&branches.then_body, &branches.else_body);
        return Ok(multiply_accumulates(one)
            .zip(multiply_accumulates(other))
            .map(|(a, b)| a.max(b)));
    }
    let mut sum = 0u64;
    for (cost, count) in node.op.cost(&inputs)? {
        if matches!(cost, Cost::FMA(_)) {
            let Some(count) = count.to_i64().ok().and_then(|count| u64::try_from(count).ok()) else {
                return Ok(None);
            };
            sum = sum.saturating_add(count);
        }
    }
    Ok(Some(sum))
}
