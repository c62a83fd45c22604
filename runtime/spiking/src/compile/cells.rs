//! Parameters of neurons, from seconds to steps.

use crate::graph::{Cuba, Integrator, Node, Spiking, Tensor};
use crate::neuron::{Cell, Neurons};

/// How far `dt / tau` may exceed 1: time constants in single precision are not exact.
const SLACK: f64 = 1e-6;
/// Longest refractory time in steps.
const MAX_REFRACTORY: f64 = 65_536.0;

/// One number for each of `count` elements; a single one holds for all.
pub(super) fn each(name: &str, tensor: &Tensor, count: usize) -> Result<Vec<f64>, String> {
    match tensor.values[..] {
        [value] => Ok(vec![value; count]),
        ref values if values.len() == count => Ok(values.to_vec()),
        ref values => Err(format!(
            "{name}: it has {} numbers for {count} elements",
            values.len()
        )),
    }
}

/// The neurons of a node of `count` elements.
pub(super) fn neurons(node: &Node, count: usize, dt: f64) -> Result<Neurons, String> {
    let blank = Cell {
        rate: 0.0,
        r: 1.0,
        leak: 0.0,
        threshold: f64::INFINITY,
        reset: 0.0,
        refractory: 0,
        synapse_rate: 0.0,
        w_in: 1.0,
    };
    let mut cells = vec![blank; count];
    let (is_leaky, is_spiking, has_synapse) = match node {
        Node::I { r } => {
            put_resistance(&mut cells, r, dt)?;
            (false, false, false)
        }
        Node::If { r, spiking } => {
            put_resistance(&mut cells, r, dt)?;
            put_spiking(&mut cells, spiking, dt)?;
            (false, true, false)
        }
        Node::Li(li) => {
            put_integrator(&mut cells, li, "tau", dt)?;
            (true, false, false)
        }
        Node::Lif { li, spiking } => {
            put_integrator(&mut cells, li, "tau", dt)?;
            put_spiking(&mut cells, spiking, dt)?;
            (true, true, false)
        }
        Node::CubaLi(cuba) => {
            put_cuba(&mut cells, cuba, dt)?;
            (true, false, true)
        }
        Node::CubaLif { cuba, spiking } => {
            put_cuba(&mut cells, cuba, dt)?;
            put_spiking(&mut cells, spiking, dt)?;
            (true, true, true)
        }
        _ => return Err("it is not a neuron".into()),
    };
    Ok(Neurons::new(cells, is_leaky, is_spiking, has_synapse))
}

fn put(
    cells: &mut [Cell],
    name: &str,
    tensor: &Tensor,
    set: impl Fn(&mut Cell, f64) -> Result<(), String>,
) -> Result<(), String> {
    let values = each(name, tensor, cells.len())?;
    for (index, (cell, value)) in cells.iter_mut().zip(values).enumerate() {
        set(cell, value).map_err(|problem| format!("{name}[{index}]: {problem}"))?;
    }
    Ok(())
}

fn put_resistance(cells: &mut [Cell], r: &Tensor, dt: f64) -> Result<(), String> {
    put(cells, "r", r, |cell, value| {
        cell.rate = dt * value;
        Ok(())
    })
}

fn put_integrator(cells: &mut [Cell], li: &Integrator, tau: &str, dt: f64) -> Result<(), String> {
    put(cells, tau, &li.tau, |cell, tau| {
        cell.rate = rate(tau, dt)?;
        Ok(())
    })?;
    put(cells, "r", &li.r, |cell, r| {
        cell.r = r;
        Ok(())
    })?;
    put(cells, "v_leak", &li.v_leak, |cell, leak| {
        cell.leak = leak;
        Ok(())
    })
}

fn put_cuba(cells: &mut [Cell], cuba: &Cuba, dt: f64) -> Result<(), String> {
    put_integrator(cells, &cuba.membrane, "tau_mem", dt)?;
    put(cells, "tau_syn", &cuba.tau_syn, |cell, tau| {
        cell.synapse_rate = rate(tau, dt)?;
        Ok(())
    })?;
    put(cells, "w_in", &cuba.w_in, |cell, w_in| {
        cell.w_in = w_in;
        Ok(())
    })
}

fn put_spiking(cells: &mut [Cell], spiking: &Spiking, dt: f64) -> Result<(), String> {
    put(cells, "v_threshold", &spiking.threshold, |cell, threshold| {
        cell.threshold = threshold;
        Ok(())
    })?;
    put(cells, "v_reset", &spiking.reset, |cell, reset| {
        cell.reset = reset;
        Ok(())
    })?;
    put(
        cells,
        "metadata/refractory",
        &spiking.refractory,
        |cell, seconds| {
            let steps = (seconds / dt).round();
            if !(0.0..=MAX_REFRACTORY).contains(&steps) {
                return Err(format!(
                    "{seconds} s are not between 0 and {MAX_REFRACTORY} steps of {dt} s"
                ));
            }
            if steps > 0.0 && cell.reset > cell.threshold {
                return Err("a neuron that resets above its threshold cannot be refractory".into());
            }
            cell.refractory = steps as u32;
            Ok(())
        },
    )
}

/// `dt / tau`. A step longer than the time constant would overshoot, and one twice as long diverge.
fn rate(tau: f64, dt: f64) -> Result<f64, String> {
    let rate = dt / tau;
    if tau > 0.0 && rate <= 1.0 + SLACK {
        return Ok(rate);
    }
    Err(format!(
        "a time constant of {tau} s is shorter than a step of {dt} s: make the step shorter"
    ))
}
