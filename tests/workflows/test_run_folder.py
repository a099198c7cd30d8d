"""What is read from a run's folder."""

from etils import epath

from pneumojax.workflows import run_folder


def test_labels_are_read_by_site_also_where_images_have_weights(tmp_path):
    """The table then has a fourth column."""
    rows = ["id,label,split,weight", "a/1.png,1,train,0.3", "a/2.png,0,val,1", "b/3.png,0,train,1", "b/4.png,1,,"]
    (tmp_path / "splits.csv").write_text("\n".join(rows) + "\n")
    found = run_folder.labels_by_site(epath.Path(tmp_path), ["a", "b"])
    assert found == {"train": {"a": [1], "b": [0]}, "val": {"a": [0]}}
