//! Latency drawn as SVG: percentile curves of several recordings over one another, and the first of them over time.
//! Owns the drawing. Never reads a log, never writes a file.
//! Invariant: what is drawn is what the histograms hold: no smoothing, no cut tail.

use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use thiserror::Error;

use super::recording::{Interval, Series};

/// Width and height of the picture, in pixels.
const SIZE: (u32, u32) = (1000, 900);
/// Height of the upper chart.
const UPPER: i32 = 470;
/// Most curves in one picture: more cannot be told apart.
pub const CURVES_MAX: usize = 10;
/// Steps of a percentile curve for each halving of the distance to 100 %.
const TICKS: u32 = 8;
/// The curve ends here: one in ten million.
const LEAST_TAIL: f64 = 1e-7;

/// Why nothing was drawn.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChartFault {
    #[error("there is nothing to draw")]
    Nothing,
    #[error("{0} curves are more than a picture can show ({CURVES_MAX}); choose a tag")]
    TooMany(usize),
    #[error("the chart cannot be drawn: {0}")]
    Drawing(String),
}

/// A named series.
#[derive(Clone, Debug)]
pub struct Curve<'s> {
    pub name: String,
    pub series: &'s Series,
}

/// The picture: percentiles of all curves above, the first curve over time below.
pub fn draw(title: &str, curves: &[Curve]) -> Result<String, ChartFault> {
    let curves: Vec<&Curve> = curves.iter().filter(|it| !it.series.total.is_empty()).collect();
    if curves.is_empty() {
        return Err(ChartFault::Nothing);
    }
    if curves.len() > CURVES_MAX {
        return Err(ChartFault::TooMany(curves.len()));
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(fault)?;
        let (upper, lower) = root.split_vertically(UPPER);
        percentiles(&upper, title, &curves)?;
        over_time(&lower, curves[0])?;
        root.present().map_err(fault)?;
    }
    Ok(svg)
}

/// Name, colour, and which value of an interval.
type Band = (&'static str, RGBColor, fn(&Interval) -> u64);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn fault(error: impl std::fmt::Display) -> ChartFault {
    ChartFault::Drawing(error.to_string())
}

/// Latency against 1/(1 - quantile), both in decades.
fn percentiles(area: &Area, title: &str, curves: &[&Curve]) -> Result<(), ChartFault> {
    let lines: Vec<Vec<(f64, f64)>> = curves.iter().map(|curve| points(curve.series)).collect();
    let all = || lines.iter().flatten();
    let decades = all().map(|point| point.0).fold(2.0, f64::max).ceil();
    let (least, most) = bounds(all().map(|point| point.1));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..decades, (least..most).log_scale())
        .map_err(fault)?;
    mesh(&mut chart, ("percentile", decades as usize + 1), &|decade| percent(*decade))?;
    for (index, (curve, line)) in curves.iter().zip(lines).enumerate() {
        let color = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)))
            .map_err(fault)?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    legend(&mut chart)
}

/// Median, 90 %, 99 % and the longest of each interval.
fn over_time(area: &Area, curve: &Curve) -> Result<(), ChartFault> {
    let intervals = &curve.series.intervals;
    let end = intervals.iter().map(|it| (it.start + it.length).as_secs_f64()).fold(1e-3, f64::max);
    let values = intervals.iter().flat_map(|it| [it.p50, it.max]).map(microseconds);
    let (least, most) = bounds(values);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{} over time", curve.name), ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..end, (least..most).log_scale())
        .map_err(fault)?;
    mesh(&mut chart, ("seconds", 10), &|second| format!("{second}"))?;
    let bands: [Band; 4] = [
        ("max", RGBColor(214, 96, 77), |it| it.max),
        ("p99", RGBColor(244, 165, 130), |it| it.p99),
        ("p90", RGBColor(146, 197, 222), |it| it.p90),
        ("p50", RGBColor(33, 102, 172), |it| it.p50),
    ];
    for (name, color, of) in bands {
        // An interval is as wide as it was long.
        let steps = intervals.iter().flat_map(|it| {
            let value = microseconds(of(it));
            let start = it.start.as_secs_f64();
            [(start, value), (start + it.length.as_secs_f64(), value)]
        });
        let band = AreaSeries::new(steps, least, color.mix(0.35)).border_style(color);
        chart
            .draw_series(band)
            .map_err(fault)?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], color.filled()));
    }
    legend(&mut chart)
}

fn mesh<'a, 'b, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>,
    (x, labels): (&str, usize),
    x_label: &dyn Fn(&f64) -> String,
) -> Result<(), ChartFault>
where
    'b: 'a,
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc(x)
        .x_labels(labels)
        .y_desc("latency, us")
        .x_label_formatter(x_label)
        .y_label_formatter(&|value| format!("{value}"))
        .light_line_style(BLACK.mix(0.06))
        .bold_line_style(BLACK.mix(0.18))
        .draw()
        .map_err(fault)
}

fn legend<'a, 'b: 'a, X: Ranged, Y: Ranged>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>,
) -> Result<(), ChartFault> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(fault)
}

/// The steps of a distribution: decades of 1/(1 - quantile), and microseconds. The longest value ends the curve, where
/// as many values as there are can tell it.
fn points(series: &Series) -> Vec<(f64, f64)> {
    let total = &series.total;
    let least_tail = (1.0 / total.len() as f64).max(LEAST_TAIL);
    let mut points: Vec<(f64, f64)> = total
        .iter_quantiles(TICKS)
        .map(|step| {
            let tail = (1.0 - step.quantile_iterated_to()).max(least_tail);
            (-tail.log10(), microseconds(step.value_iterated_to()))
        })
        .collect();
    points.push((-least_tail.log10(), microseconds(total.max())));
    points
}

/// The least and most of the values, opened to whole decades; neither zero nor equal.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) = values
        .filter(|value| *value > 0.0)
        .fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    if !least.is_finite() {
        return (0.1, 1.0);
    }
    let (low, high) = (least.log10().floor(), most.log10().ceil());
    (10_f64.powf(low), 10_f64.powf(high.max(low + 1.0)))
}

fn microseconds(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// `90%` for 1, `99.9%` for 3: as many digits as it takes to be told from 100 %.
fn percent(decades: f64) -> String {
    let digits = (decades.ceil() as usize).saturating_sub(2);
    format!("{:.digits$}%", 100.0 - 100.0 * 10_f64.powf(-decades))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::telemetry::latency::{Latency, Stage};
    use crate::telemetry::percentiles::IntervalLog;
    use crate::telemetry::recording::Recording;

    fn recording(scale: u64) -> Recording {
        let mut log = IntervalLog::new(UNIX_EPOCH);
        let mut text = log.header();
        for second in 0..5 {
            let mut latency = Latency::new();
            (1..2000).for_each(|value| latency.record(Stage::Transaction, value * scale));
            let at = UNIX_EPOCH + Duration::from_secs(second);
            text.extend(log.interval(&latency, at, Duration::from_secs(1)));
        }
        Recording::read(&text, 1).unwrap()
    }

    #[test]
    fn curves_are_drawn_with_names_percentiles_and_time() {
        let (one, two) = (recording(100), recording(250));
        let curve =
            |name: &str, of: &'_ Recording| (name.to_owned(), of.series["transaction"].clone());
        let series = [curve("before <1>", &one), curve("after", &two)];
        let curves: Vec<_> =
            series.iter().map(|(name, series)| Curve { name: name.clone(), series }).collect();
        let svg = draw("two runs", &curves).unwrap();
        for text in ["<svg", "two runs", "before &lt;1&gt;", "after", "99.9%", "p99", "latency, us"]
        {
            assert!(svg.contains(text), "no {text} in {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.matches("<polyline").count() >= 2, "{svg}");
    }

    #[test]
    fn the_curve_ends_at_the_longest_value() {
        let recording = recording(100);
        let points = points(&recording.series["transaction"]);
        let (decades, longest) = points.last().copied().unwrap();
        assert!((decades - 9995_f64.log10()).abs() < 1e-9);
        assert!((longest - 199.9).abs() < 0.2);
        assert!(points.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert_eq!(draw("", &[]), Err(ChartFault::Nothing));
        let recording = recording(1);
        let series = &recording.series["transaction"];
        let many = vec![Curve { name: "x".to_owned(), series }; CURVES_MAX + 1];
        assert_eq!(draw("", &many), Err(ChartFault::TooMany(CURVES_MAX + 1)));
    }

    #[test]
    fn bounds_are_whole_decades() {
        assert_eq!(bounds([3.0, 450.0].into_iter()), (1.0, 1000.0));
        assert_eq!(bounds([5.0].into_iter()), (1.0, 10.0));
        assert_eq!(bounds([].into_iter()), (0.1, 1.0));
    }
}
