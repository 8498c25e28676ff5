//! Draws what the measuring scripts found: `draw CHART.json OUT.svg`. A chart is a title, a note and panels; a panel has
//! bars (one for each name) or lines (over a number). Values come as median, least and most.
//! Owns the drawing. Never computes a figure.

use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Deserialize;

type Fault = Box<dyn std::error::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const COLUMNS: usize = 2;
const PANEL: (u32, u32) = (560, 300);
const HEADING: u32 = 56;

#[derive(Deserialize)]
struct Chart {
    title: String,
    note: String,
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
struct Panel {
    title: String,
    unit: String,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Kind {
    /// Median, least and most of each name.
    Bars { bars: Vec<String>, values: Vec<[f64; 3]> },
    /// Over `x`, in decades where `decades` says so.
    Lines { x: String, decades: bool, lines: Vec<Line> },
}

#[derive(Deserialize)]
struct Line {
    name: String,
    /// Place, median, least, most.
    points: Vec<[f64; 4]>,
}

fn main() -> Result<(), Fault> {
    let mut words = std::env::args().skip(1);
    let (Some(from), Some(to)) = (words.next(), words.next()) else {
        return Err("draw CHART.json OUT.svg".into());
    };
    let chart: Chart = serde_json::from_str(&std::fs::read_to_string(from)?)?;
    let rows = chart.panels.len().div_ceil(COLUMNS) as u32;
    let size = (PANEL.0 * COLUMNS as u32, HEADING + PANEL.1 * rows);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw_text(&chart.title, &("sans-serif", 20).into_text_style(&root), (16, 12))?;
        root.draw_text(&chart.note, &("sans-serif", 12).into_text_style(&root), (16, 36))?;
        let (_, below) = root.split_vertically(HEADING as i32);
        let areas = below.split_evenly((rows.max(1) as usize, COLUMNS));
        for (panel, area) in chart.panels.iter().zip(&areas) {
            match &panel.kind {
                Kind::Bars { bars, values } => draw_bars(area, panel, bars, values)?,
                Kind::Lines { x, decades, lines } => draw_lines(area, panel, x, *decades, lines)?,
            }
        }
        root.present()?;
    }
    std::fs::write(to, svg)?;
    Ok(())
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn draw_bars(
    area: &Area,
    panel: &Panel,
    names: &[String],
    values: &[[f64; 3]],
) -> Result<(), Fault> {
    let most = values.iter().map(|value| value[2]).fold(f64::MIN_POSITIVE, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 14))
        .margin(10)
        .x_label_area_size(22)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..names.len() as f64, 0.0..most)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(&panel.unit)
        .y_labels(6)
        .draw()?;
    for (index, (name, [median, least, most])) in names.iter().zip(values).enumerate() {
        let (left, middle) = (index as f64 + 0.15, index as f64 + 0.5);
        let color = Palette99::pick(index).mix(0.75);
        let bar = Rectangle::new([(left, 0.0), (left + 0.7, *median)], color.filled());
        let spread = PathElement::new([(middle, *least), (middle, *most)], BLACK.stroke_width(1));
        chart.draw_series([bar.into_dyn(), spread.into_dyn()])?;
        let anchor = |vertical| {
            let style = ("sans-serif", 12).into_text_style(area);
            style.pos(plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Center,
                vertical,
            ))
        };
        let above = anchor(plotters::style::text_anchor::VPos::Bottom);
        let below = anchor(plotters::style::text_anchor::VPos::Top);
        let (x, y) = chart.backend_coord(&(middle, *most));
        area.draw_text(&figure(*median), &above, relative(area, (x, y - 3)))?;
        let (x, y) = chart.backend_coord(&(middle, 0.0));
        area.draw_text(name, &below, relative(area, (x, y + 5)))?;
    }
    Ok(())
}

/// A place of the picture within the area.
fn relative(area: &Area, (x, y): (i32, i32)) -> (i32, i32) {
    let (left, top) = area.get_base_pixel();
    (x - left, y - top)
}

fn draw_lines(
    area: &Area,
    panel: &Panel,
    x: &str,
    decades: bool,
    lines: &[Line],
) -> Result<(), Fault> {
    let place = |value: f64| if decades { value.max(1.0).log10() } else { value };
    let all = || lines.iter().flat_map(|line| &line.points);
    let most = all().map(|point| point[3]).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let from = all().map(|point| place(point[0])).fold(f64::INFINITY, f64::min);
    let to = all().map(|point| place(point[0])).fold(from + 1e-9, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 14))
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(from..to, 0.0..most)?;
    let label = |value: &f64| figure(if decades { 10_f64.powf(*value) } else { *value });
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(x).y_desc(&panel.unit).x_label_formatter(&label).y_labels(6).draw()?;
    for (index, line) in lines.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let points = line.points.iter().map(|point| (place(point[0]), point[1]));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(line.points.iter().map(|[at, _, least, most]| {
            PathElement::new([(place(*at), *least), (place(*at), *most)], color.stroke_width(1))
        }))?;
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::LowerRight).background_style(WHITE.mix(0.85));
    legend.border_style(BLACK.mix(0.3)).draw()?;
    Ok(())
}
